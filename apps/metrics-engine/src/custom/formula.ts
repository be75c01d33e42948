import {
  type AggregationMethod,
  type ErrorCode,
  isDay,
  type MetricKind,
  parseTime,
  TallyError,
} from '@tally/contracts';
import type { BinaryOp, Expr, SourceShape, ValueType } from '@tally/db';
import { hasSqlDetails, loadModule, parseSync } from 'libpg-query';

export type FormulaOptions = {
  source: SourceShape;
  /** The aggregation of a formula that has none; undefined: it is rejected. */
  method: AggregationMethod | undefined;
};

export const ALLOWED = [
  'the columns of the data source',
  "metric('name') and property('name') of events",
  'SUM, AVG, MIN, MAX, COUNT, COUNT(DISTINCT …), each with FILTER (WHERE …)',
  'PERCENTILE_CONT and PERCENTILE_DISC (0 to 1) WITHIN GROUP (ORDER BY …)',
  'COALESCE, NULLIF, CASE',
  '+ - * / %, = <> < <= > >=, IN, BETWEEN, IS NULL, AND, OR, NOT',
  "numbers, 'text', TRUE, FALSE, NULL",
] as const;

const MAX_LENGTH = 2_000;
const MAX_PARENTHESES = 32;
const MAX_NODES = 300;
const MAX_DEPTH = 48;
const MAX_TEXT = 512;

/** The parser sees the formula in parentheses, so that it can only be one expression. */
const BEFORE = 'select (';

const METHODS: Partial<Record<MetricKind, AggregationMethod>> = {
  COUNT: 'COUNT',
  SUM: 'SUM',
  AVERAGE: 'AVG',
  DISTINCT_COUNT: 'COUNT_DISTINCT',
  MAX: 'MAX',
  MIN: 'MIN',
};

/** The default aggregation of a metric type. */
export const methodOf = (kind: MetricKind): AggregationMethod | undefined => METHODS[kind];

let loading: Promise<void> | undefined;

/** Loads PostgreSQL's parser, once; parseFormula needs it. */
export const loadParser = (): Promise<void> => (loading ??= loadModule());

/**
 * Parses a formula with PostgreSQL's own grammar and accepts only nodes of the white list. Throws FORMULA_SYNTAX,
 * FORMULA_FORBIDDEN, FORMULA_TYPE or FORMULA_TOO_COMPLEX with the position in the text.
 */
export function parseFormula(text: string, { source, method }: FormulaOptions): Expr {
  scan(text);
  const root = targetOf(text);
  const { columns } = source;
  let nodes = 0;
  let aggregates = 0;
  let bare: number | undefined;

  /** `inside` names the aggregate whose rows are read; undefined: over the groups. */
  function read(node: Node, depth: number, inside: string | undefined): Typed {
    const [[kind, body] = ['', {}]] = Object.entries(node) as [string, Body][];
    const at = placeOf(text, body);
    if (++nodes > MAX_NODES || depth > MAX_DEPTH)
      fail('FORMULA_TOO_COMPLEX', `At most ${MAX_NODES} parts, nested at most ${MAX_DEPTH} deep.`, at);
    const next = (child: unknown) => read(child as Node, depth + 1, inside);
    switch (kind) {
      case 'ColumnRef': {
        const name = only(body.fields, at);
        if (!Object.hasOwn(columns, name))
          fail('FORMULA_FORBIDDEN', `${source.name} has no column ${show(name)}.`, at, Object.keys(columns));
        if (!inside) bare ??= at;
        const { type } = columns[name]!;
        return { expr: { kind: 'column', name, type }, type, at };
      }
      case 'A_Const':
        return literal(body, at);
      case 'A_Expr':
        return operator(body, at, next);
      case 'BoolExpr': {
        known(body, ['boolop', 'args', 'location'], at);
        const args = listOf(body.args).map((arg) => as(next(arg), 'boolean'));
        if (body.boolop === 'NOT_EXPR') return { expr: { kind: 'not', arg: args[0]! }, type: 'boolean', at };
        const op = body.boolop === 'AND_EXPR' ? 'and' : 'or';
        return { expr: args.reduce((left, right) => ({ kind: 'binary', op, left, right })), type: 'boolean', at };
      }
      case 'NullTest': {
        known(body, ['arg', 'nulltesttype', 'location'], at);
        const arg = settled(next(body.arg));
        return { expr: { kind: 'isNull', arg, negated: body.nulltesttype === 'IS_NOT_NULL' }, type: 'boolean', at };
      }
      case 'CoalesceExpr': {
        known(body, ['args', 'location'], at);
        const args = listOf(body.args).map(next);
        const type = common(args, at);
        return { expr: { kind: 'coalesce', args: args.map((arg) => as(arg, type)) }, type, at };
      }
      case 'CaseExpr':
        return choice(body, at, next);
      case 'FuncCall':
        return call(body, at, depth, inside);
      default:
        return fail('FORMULA_FORBIDDEN', `This is not allowed in a formula: ${NODE_NAMES[kind] ?? show(kind)}.`, at);
    }
  }

  function operator(body: Body, at: number, next: (child: unknown) => Typed): Typed {
    known(body, ['kind', 'name', 'lexpr', 'rexpr', 'rexpr_list_start', 'rexpr_list_end', 'location'], at);
    const name = only(body.name, at);
    if (body.kind === 'AEXPR_NULLIF') {
      const [left, right] = [next(body.lexpr), next(body.rexpr)];
      const type = common([left, right], at);
      return { expr: { kind: 'nullif', left: as(left, type), right: as(right, type) }, type, at };
    }
    if (body.kind === 'AEXPR_IN') {
      const items = itemsOf(body.rexpr).map(next);
      const arg = next(body.lexpr);
      const type = common([arg, ...items], at);
      const expr: Expr = {
        kind: 'in',
        arg: as(arg, type),
        items: items.map((item) => as(item, type)),
        negated: name === '<>',
      };
      return { expr, type: 'boolean', at };
    }
    if (body.kind === 'AEXPR_BETWEEN' || body.kind === 'AEXPR_NOT_BETWEEN') {
      const [low, high] = itemsOf(body.rexpr);
      const expr: Expr = {
        kind: 'binary',
        op: 'and',
        left: compare('>=', next(body.lexpr), next(low), at),
        right: compare('<=', next(body.lexpr), next(high), at),
      };
      return { expr: body.kind === 'AEXPR_BETWEEN' ? expr : { kind: 'not', arg: expr }, type: 'boolean', at };
    }
    if (body.kind !== 'AEXPR_OP') fail('FORMULA_FORBIDDEN', `The operator ${show(name)} is not allowed here.`, at);
    if (body.lexpr === undefined) {
      const arg = as(next(body.rexpr), 'number');
      if (name === '-') return { expr: { kind: 'negate', arg }, type: 'number', at };
      if (name === '+') return { expr: arg, type: 'number', at };
    } else if (ARITHMETIC.has(name)) {
      const [left, right] = [as(next(body.lexpr), 'number'), as(next(body.rexpr), 'number')];
      return { expr: { kind: 'binary', op: name as BinaryOp, left, right }, type: 'number', at };
    } else if (COMPARISON.has(name)) {
      return { expr: compare(name as BinaryOp, next(body.lexpr), next(body.rexpr), at), type: 'boolean', at };
    }
    return fail('FORMULA_FORBIDDEN', `The operator ${show(name)} is not allowed.`, at);
  }

  function choice(body: Body, at: number, next: (child: unknown) => Typed): Typed {
    known(body, ['arg', 'args', 'defresult', 'location'], at);
    const branches = listOf(body.args).map((each) => {
      const branch = (each as { CaseWhen: Body }).CaseWhen;
      known(branch, ['expr', 'result', 'location'], at);
      const when = next(branch.expr);
      const condition = body.arg === undefined ? as(when, 'boolean') : compare('=', next(body.arg), when, at);
      return { when: condition, result: next(branch.result) };
    });
    const otherwise: Typed = body.defresult === undefined ? { expr: NULL, type: 'null', at } : next(body.defresult);
    const type = common([...branches.map(({ result }) => result), otherwise], at);
    const whens = branches.map(({ when, result }) => ({ when, result: as(result, type) }));
    return { expr: { kind: 'case', whens, otherwise: as(otherwise, type), type }, type, at };
  }

  function call(body: Body, at: number, depth: number, inside: string | undefined): Typed {
    const name = listOf(body.funcname).length === 1 ? only(body.funcname, at) : '';
    if (name === 'metric' || name === 'property') return named(name, body, at, inside);
    if (!AGGREGATES.has(name))
      return fail('FORMULA_FORBIDDEN', `The function ${show(name || namesOf(body.funcname))} is not allowed.`, at);
    if (inside) return fail('FORMULA_FORBIDDEN', `${name.toUpperCase()} may not be inside ${inside}.`, at);
    return aggregate(name, body, at, depth);
  }

  /** A metric type or property of an event. */
  function named(kind: 'metric' | 'property', body: Body, at: number, inside: string | undefined): Typed {
    known(body, ['funcname', 'args', 'funcformat', 'location'], at);
    if (!source.hasEvents) fail('FORMULA_FORBIDDEN', `${source.name} has no ${kind}(): only events has.`, at);
    const args = listOf(body.args);
    const name = (args[0] as { A_Const?: { sval?: { sval?: string } } } | undefined)?.A_Const?.sval?.sval;
    if (args.length !== 1 || name === undefined || name === '' || name.length > 64)
      return fail('FORMULA_TYPE', `${kind}() takes one name in single quotes, of 1 to 64 characters.`, at);
    if (!inside) bare ??= at;
    if (kind === 'property') return { expr: { kind, name, as: 'text' }, type: 'property', at };
    const isColumn = Object.hasOwn(columns, name) && columns[name]!.type === 'number';
    return { expr: isColumn ? { kind: 'column', name, type: 'number' } : { kind, name }, type: 'number', at };
  }

  function aggregate(name: string, body: Body, at: number, depth: number): Typed {
    known(body, AGGREGATE_FIELDS, at);
    aggregates++;
    const shown = name.toUpperCase();
    const args = listOf(body.args);
    const row = (child: unknown, of = shown) => read(child as Node, depth + 1, of);
    const filter = body.agg_filter === undefined ? null : as(row(body.agg_filter, 'FILTER'), 'boolean');
    const number = (expr: Expr): Typed => ({ expr, type: 'number', at });

    if (name.startsWith('percentile_')) {
      const { fraction, order } = percentile(shown, body, at);
      const arg = as(row(order.node), 'number');
      const exact = name === 'percentile_cont' ? 'cont' : 'disc';
      const descending = order.sortby_dir === 'SORTBY_DESC';
      return number({ kind: 'percentile', exact, fraction, arg, descending, filter });
    }
    if (listOf(body.agg_order).length > 0 || body.agg_within_group)
      return fail('FORMULA_FORBIDDEN', `${shown} takes no ORDER BY.`, at);
    if (name === 'count') {
      if (body.agg_star) return number({ kind: 'count', arg: null, distinct: false, filter });
      if (args.length !== 1) return fail('FORMULA_TYPE', 'COUNT takes * or one expression.', at);
      return number({ kind: 'count', arg: settled(row(args[0])), distinct: body.agg_distinct === true, filter });
    }
    if (body.agg_star || args.length !== 1) return fail('FORMULA_TYPE', `${shown} takes one expression.`, at);
    if (body.agg_distinct) return fail('FORMULA_FORBIDDEN', 'DISTINCT is for COUNT only.', at);
    const arg = as(row(args[0]), 'number');
    return number({ kind: 'fold', name: name as 'sum' | 'avg' | 'min' | 'max', arg, filter });
  }

  // A formula over rows is parsed as the argument of the method's aggregate.
  const first = read(root, 0, undefined);
  if (aggregates > 0) {
    if (bare !== undefined)
      fail(
        'FORMULA_FORBIDDEN',
        'A column outside an aggregate has no single value: put it inside SUM, AVG and so on.',
        bare,
      );
    return as(first, 'number');
  }
  if (bare === undefined) return fail('FORMULA_TYPE', 'The formula reads nothing: it needs a column or COUNT(*).', 0);
  if (method === undefined)
    return fail('FORMULA_TYPE', 'The formula has no aggregate: write one, or give an aggregationMethod.', 0);
  if (method === 'COUNT' || method === 'COUNT_DISTINCT')
    return { kind: 'count', arg: settled(first), distinct: method === 'COUNT_DISTINCT', filter: null };
  return {
    kind: 'fold',
    name: method.toLowerCase() as 'sum' | 'avg' | 'min' | 'max',
    arg: as(first, 'number'),
    filter: null,
  };
}

type Node = Record<string, unknown>;
type Body = Record<string, unknown>;
/** property: of the kind that its position requires. */
type Typed = { expr: Expr; type: ValueType | 'null' | 'property'; at: number };

const NULL: Expr = { kind: 'literal', type: 'text', value: null };
const AGGREGATES = new Set(['sum', 'count', 'avg', 'min', 'max', 'percentile_cont', 'percentile_disc']);
const AGGREGATE_FIELDS = [
  ...['funcname', 'args', 'agg_filter', 'agg_star', 'agg_distinct', 'agg_order', 'agg_within_group'],
  ...['funcformat', 'location'],
];
const ARITHMETIC = new Set(['+', '-', '*', '/', '%']);
const COMPARISON = new Set(['=', '<>', '<', '<=', '>', '>=']);
const NODE_NAMES: Record<string, string> = {
  SubLink: 'a subquery',
  TypeCast: 'a cast',
  RowExpr: 'a list of expressions',
  A_ArrayExpr: 'an array',
  A_Indirection: 'a subscript or a field',
  CollateClause: 'COLLATE',
  SQLValueFunction: 'a value of the session or the clock',
  MinMaxExpr: 'GREATEST or LEAST',
  ParamRef: 'a parameter',
  BooleanTest: 'IS TRUE or IS FALSE',
};

/** Text that is no token of formulas: refused before the parser sees it. */
const TOKEN =
  /[ \t\r\n]+|'(?:[^'\p{Cc}]|'')*'(?!')|(?:\d{1,18}(?:\.\d{1,12})?|\.\d{1,12})(?![\w.$'])|[A-Za-z_]\w*(?!['"$\w])|<>|!=|<=|>=|[<>=+*/%(),]|-(?!-)/uy;

function scan(text: string): void {
  if (text.length > MAX_LENGTH)
    fail('FORMULA_TOO_COMPLEX', `A formula has at most ${MAX_LENGTH} characters.`, MAX_LENGTH);
  let depth = 0;
  for (let at = 0; at < text.length; ) {
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(text)?.[0];
    if (token === undefined || (token === '/' && text[at + 1] === '*') || (token === '*' && text[at + 1] === '/'))
      throw fail('FORMULA_FORBIDDEN', `This is not allowed in a formula: ${show(text.slice(at, at + 12))}.`, at);
    if (token === '(' && ++depth > MAX_PARENTHESES)
      fail('FORMULA_TOO_COMPLEX', `Parentheses are nested more than ${MAX_PARENTHESES} deep.`, at);
    if (token === ')' && --depth < 0) fail('FORMULA_SYNTAX', 'This parenthesis closes nothing.', at);
    if (token.startsWith("'") && token.length > MAX_TEXT) fail('FORMULA_TOO_COMPLEX', 'This text is too long.', at);
    at += token.length;
  }
}

function targetOf(text: string): Node {
  let tree: { stmts?: { stmt?: Node; stmt_location?: number; stmt_len?: number }[] };
  try {
    tree = parseSync(`${BEFORE}${text})`) as typeof tree;
  } catch (error) {
    if (!hasSqlDetails(error) || !error.sqlDetails)
      return fail('FORMULA_TOO_COMPLEX', 'The formula cannot be read.', 0);
    const at = Math.max(0, Math.min(text.length, error.sqlDetails.cursorPosition - BEFORE.length));
    return fail('FORMULA_SYNTAX', `The formula cannot be read: ${error.sqlDetails.message.replace(/;.*$/s, '')}.`, at);
  }
  const select = tree.stmts?.length === 1 ? (tree.stmts[0]!.stmt?.SelectStmt as Body | undefined) : undefined;
  if (!select) return fail('FORMULA_FORBIDDEN', 'A formula is one expression.', 0);
  known(select, ['targetList', 'limitOption', 'op'], 0);
  const [target, ...more] = listOf(select.targetList) as { ResTarget?: Body }[];
  if (!target?.ResTarget || more.length > 0) return fail('FORMULA_FORBIDDEN', 'A formula is one expression.', 0);
  known(target.ResTarget, ['val', 'location'], 0);
  return target.ResTarget.val as Node;
}

function literal(body: Body, at: number): Typed {
  known(body, ['ival', 'fval', 'sval', 'boolval', 'isnull', 'location'], at);
  if (body.isnull) return { expr: NULL, type: 'null', at };
  if (body.sval) {
    const value = (body.sval as { sval?: string }).sval ?? '';
    return { expr: { kind: 'literal', type: 'text', value }, type: 'text', at };
  }
  if (body.boolval) {
    const value = (body.boolval as { boolval?: boolean }).boolval ?? false;
    return { expr: { kind: 'literal', type: 'boolean', value }, type: 'boolean', at };
  }
  const value = body.fval ? (body.fval as { fval: string }).fval : String((body.ival as { ival?: number })?.ival ?? 0);
  return { expr: { kind: 'literal', type: 'number', value }, type: 'number', at };
}

/** Returns the fraction of a percentile, and the order of its rows. */
function percentile(shown: string, body: Body, at: number): { fraction: string; order: Body } {
  const args = listOf(body.args);
  const orders = listOf(body.agg_order);
  const fraction = args.length === 1 ? fractionOf(args[0] as Node) : undefined;
  if (!body.agg_within_group || body.agg_distinct || fraction === undefined)
    return fail('FORMULA_TYPE', `Write ${shown}(0.95) WITHIN GROUP (ORDER BY …), with a number from 0 to 1.`, at);
  const order = (orders[0] as { SortBy: Body }).SortBy;
  if (orders.length !== 1 || order.sortby_nulls !== 'SORTBY_NULLS_DEFAULT' || order.useOp !== undefined)
    return fail('FORMULA_FORBIDDEN', 'WITHIN GROUP takes ORDER BY one expression, ASC or DESC.', at);
  known(order, ['node', 'sortby_dir', 'sortby_nulls', 'location'], at);
  return { fraction, order };
}

/** A literal from 0 to 1, as written: it never becomes a double. */
function fractionOf(node: Node): string | undefined {
  const body = node.A_Const as Body | undefined;
  if (!body || body.isnull || body.sval || body.boolval) return undefined;
  const { expr } = literal(body, 0);
  const value = expr.kind === 'literal' && typeof expr.value === 'string' ? expr.value : '';
  return /^(0*(\.\d+)?|0+\.|0*1(\.0*)?)$/.test(value) && value !== '' ? value : undefined;
}

function compare(op: BinaryOp, left: Typed, right: Typed, at: number): Expr {
  const type = common([left, right], at);
  if ((type === 'text' || type === 'boolean') && op !== '=' && op !== '<>')
    return fail('FORMULA_TYPE', `A ${type} can be compared with = and <> only.`, at);
  return { kind: 'binary', op, left: as(left, type), right: as(right, type) };
}

/** Returns the one type that all can be read as; quoted text yields to a day or a time. */
function common(all: readonly Typed[], at: number): ValueType {
  const types = new Set(all.flatMap(({ type }) => (type === 'null' || type === 'property' ? [] : [type])));
  const timed = types.has('time') ? 'time' : types.has('date') ? 'date' : undefined;
  if (timed) {
    if ([...types].every((type) => type === timed || type === 'text')) return timed;
  } else if (types.size <= 1) return [...types][0] ?? 'text';
  return fail('FORMULA_TYPE', `These do not fit together: ${[...types].join(' and ')}.`, at);
}

function as({ expr, type, at }: Typed, wanted: ValueType): Expr {
  if (type === wanted) return expr;
  if (type === 'null') return { kind: 'literal', type: wanted, value: null };
  if (
    type === 'property' &&
    expr.kind === 'property' &&
    (wanted === 'number' || wanted === 'text' || wanted === 'boolean')
  )
    return { ...expr, as: wanted };
  if (type === 'text' && expr.kind === 'literal' && typeof expr.value === 'string') {
    if (wanted === 'date' && isDay(expr.value)) return { ...expr, type: 'date' };
    if (wanted === 'time' && isDay(expr.value)) return { ...expr, type: 'time', value: `${expr.value}T00:00:00Z` };
    if (wanted === 'time' && parseTime(expr.value) !== undefined)
      return { ...expr, type: 'time', value: inUtc(expr.value) };
    if (wanted === 'date' || wanted === 'time')
      return fail(
        'FORMULA_TYPE',
        `Expected a day as 'YYYY-MM-DD'${wanted === 'time' ? ' or an ISO 8601 time' : ''}.`,
        at,
      );
  }
  return fail('FORMULA_TYPE', `Expected a ${wanted}, and this is a ${type}.`, at);
}

/** A time in UTC with all of its digits: the database has fewer zones than ISO 8601. */
function inUtc(time: string): string {
  const digits = /\.(\d+)/.exec(time)?.[1] ?? '';
  return `${new Date(parseTime(time)!).toISOString().slice(0, 19)}.${digits.padEnd(3, '0')}Z`;
}

/** An expression whose type does not matter. */
const settled = (typed: Typed): Expr =>
  as(typed, typed.type === 'null' || typed.type === 'property' ? 'text' : typed.type);

/** Refuses a node with any field that is not understood here. */
function known(body: Body, keys: readonly string[], at: number): void {
  const other = Object.keys(body).find((key) => !keys.includes(key));
  if (other === undefined) return;
  fail('FORMULA_FORBIDDEN', `This is not allowed in a formula: ${CLAUSES[other] ?? show(other)}.`, at);
}

const CLAUSES: Record<string, string> = {
  over: 'a window (OVER)',
  func_variadic: 'VARIADIC',
  agg_filter: 'FILTER here',
  agg_distinct: 'DISTINCT here',
  agg_order: 'ORDER BY here',
  fromClause: 'FROM',
  whereClause: 'WHERE',
};

const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

const itemsOf = (value: unknown): unknown[] =>
  listOf((value as { List?: { items?: unknown } } | undefined)?.List?.items);

const namesOf = (value: unknown): string =>
  listOf(value)
    .map((each) => (each as { String?: { sval?: string } }).String?.sval ?? '*')
    .join('.');

function only(value: unknown, at: number): string {
  const [first, ...more] = listOf(value) as { String?: { sval?: string } }[];
  const name = first?.String?.sval;
  if (name === undefined || more.length > 0)
    return fail('FORMULA_FORBIDDEN', `The name ${show(namesOf(value))} is not allowed: names have one part.`, at);
  return name;
}

/** The parser counts bytes from the start of its text; callers count characters from the start of theirs. */
function placeOf(text: string, body: Body): number {
  const bytes = typeof body.location === 'number' ? body.location - BEFORE.length : 0;
  return Buffer.from(text).subarray(0, Math.max(0, bytes)).toString().length;
}

const show = (text: string): string => JSON.stringify(text.slice(0, 64));

function fail(code: ErrorCode, message: string, offset: number, allowed: readonly string[] = ALLOWED): never {
  throw new TallyError(code, message, { details: { offset, allowed } });
}
