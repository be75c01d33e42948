import type { Day } from '@tally/contracts';
import { type SourceShape, SQL_TYPE, type ValueType } from './metric-sources.ts';

/** A checked formula. It contains only what was understood, so the SQL written from it is Tally's own. */
export type Expr =
  | { kind: 'column'; name: string; type: ValueType }
  | { kind: 'literal'; type: ValueType; value: string | boolean | null }
  | { kind: 'metric'; name: string }
  | { kind: 'property'; name: string; as: 'number' | 'text' | 'boolean' }
  | { kind: 'binary'; op: BinaryOp; left: Expr; right: Expr }
  | { kind: 'negate' | 'not'; arg: Expr }
  | { kind: 'isNull'; arg: Expr; negated: boolean }
  | { kind: 'in'; arg: Expr; items: Expr[]; negated: boolean }
  | { kind: 'case'; whens: { when: Expr; result: Expr }[]; otherwise: Expr; type: ValueType }
  | { kind: 'coalesce'; args: Expr[] }
  | { kind: 'nullif'; left: Expr; right: Expr }
  | { kind: 'count'; arg: Expr | null; distinct: boolean; filter: Expr | null }
  | { kind: 'fold'; name: 'sum' | 'avg' | 'min' | 'max'; arg: Expr; filter: Expr | null }
  | {
      kind: 'percentile';
      exact: 'cont' | 'disc';
      fraction: string;
      arg: Expr;
      descending: boolean;
      filter: Expr | null;
    };

export type BinaryOp = '+' | '-' | '*' | '/' | '%' | '=' | '<>' | '<' | '<=' | '>' | '>=' | 'and' | 'or';

export type MetricQuery = {
  source: SourceShape;
  formula: Expr;
  dimensions: readonly string[];
  filters: readonly { column: string; type: ValueType; values: readonly string[] }[];
  startDate: Day;
  endDate: Day;
  /** Null: all merchants. */
  merchantId: string | null;
  maxRows: number;
};

/** Returns the expressions directly inside an expression. */
export function partsOf(expr: Expr): readonly Expr[] {
  switch (expr.kind) {
    case 'binary':
    case 'nullif':
      return [expr.left, expr.right];
    case 'negate':
    case 'not':
    case 'isNull':
      return [expr.arg];
    case 'in':
      return [expr.arg, ...expr.items];
    case 'case':
      return [...expr.whens.flatMap(({ when, result }) => [when, result]), expr.otherwise];
    case 'coalesce':
      return expr.args;
    case 'count':
    case 'fold':
    case 'percentile':
      return [expr.arg, expr.filter].filter((part) => part !== null);
    case 'column':
    case 'literal':
    case 'metric':
    case 'property':
      return [];
  }
}

/** Returns the metric types that a formula reads by `metric('name')`. */
export const metricTypesIn = (expr: Expr): string[] =>
  expr.kind === 'metric' ? [expr.name] : partsOf(expr).flatMap(metricTypesIn);

export type HowToWrite = {
  /** One unit of each metric type of the formula, as a decimal. */
  units: ReadonlyMap<string, string>;
  /** Whether Citus runs it on its nodes: it has no grouping sets over several of them. */
  onNodes: boolean;
};

/** Writes the statement of a checked formula; every value is bound, every name comes from the source's shape. */
export function writeMetricQuery(
  query: MetricQuery,
  { units, onNodes }: HowToWrite,
): { text: string; values: unknown[] } {
  const { values, bind, columnOf, conditions } = begin(query);
  const column = (name: string) => columnOf(name).sql;
  /** Returns the whole units of a plain amount. */
  const wholeOf = (expr: Expr) => (expr.kind === 'column' ? columnOf(expr.name).units : undefined);
  const write = (expr: Expr): string => {
    switch (expr.kind) {
      case 'column':
        return column(expr.name);
      case 'literal':
        return bind(expr.value, SQL_TYPE[expr.type]);
      case 'metric':
        return `((source.metrics ->> ${bind(expr.name, 'text')})::numeric * ${bind(units.get(expr.name), 'numeric')})`;
      case 'property': {
        const name = bind(expr.name, 'text');
        if (expr.as === 'text') return `(source.properties ->> ${name})`;
        // Checks the kind first: text where a number is expected is no number, and no error.
        return `(case jsonb_typeof(source.properties -> ${name}) when '${expr.as}' then (source.properties ->> ${name})::${SQL_TYPE[expr.as]} end)`;
      }
      case 'binary': {
        const [left, right] = [write(expr.left), write(expr.right)];
        const safe = expr.op === '/' || expr.op === '%' ? `nullif(${right}, 0)` : right;
        return `(${left} ${expr.op} ${safe})`;
      }
      case 'negate':
        return `(- ${write(expr.arg)})`;
      case 'not':
        return `(not ${write(expr.arg)})`;
      case 'isNull':
        return `(${write(expr.arg)} is ${expr.negated ? 'not ' : ''}null)`;
      case 'in':
        return `(${write(expr.arg)} ${expr.negated ? 'not ' : ''}in (${expr.items.map(write).join(', ')}))`;
      case 'case': {
        const whens = expr.whens.map(({ when, result }) => `when ${write(when)} then ${write(result)}`);
        return `(case ${whens.join(' ')} else ${write(expr.otherwise)} end)`;
      }
      case 'coalesce':
        return `coalesce(${expr.args.map(write).join(', ')})`;
      case 'nullif':
        return `nullif(${write(expr.left)}, ${write(expr.right)})`;
      case 'count': {
        const what = expr.arg === null ? '*' : `${expr.distinct ? 'distinct ' : ''}${write(expr.arg)}`;
        return `(count(${what})${filter(expr.filter)})::numeric`;
      }
      case 'fold': {
        const whole = expr.name === 'avg' ? undefined : wholeOf(expr.arg);
        if (whole) return `(${expr.name}(${whole.sql})${filter(expr.filter)} * ${whole.worth}::numeric)`;
        return `(${expr.name}(${write(expr.arg)})${filter(expr.filter)})`;
      }
      case 'percentile': {
        const whole = wholeOf(expr.arg);
        const arg = whole?.sql ?? write(expr.arg);
        const known = expr.filter ? `${write(expr.filter)} and ${arg} is not null` : `${arg} is not null`;
        const sorted = `array_agg(${arg} order by ${arg}${expr.descending ? ' desc' : ''}) filter (where ${known})`;
        // Tally's own functions: the server's take the fraction as a double, and PERCENTILE_CONT the values too.
        const exact = `tally_sources.percentile_${expr.exact}(${sorted}, ${bind(expr.fraction, 'numeric')})`;
        return whole ? `(${exact} * ${whole.worth}::numeric)` : exact;
      }
    }
  };
  const filter = (condition: Expr | null) => (condition ? ` filter (where ${write(condition)})` : '');

  const names = query.dimensions.map(column);
  const select = (overall: string, dimensions: readonly string[], group = '') =>
    [
      `select ${[`${overall} as overall`, ...dimensions.map((name, index) => `${name} as d${index}`), `(${write(query.formula)})::text as value`].join(', ')}`,
      `from ${query.source.relation} as source`,
      `where ${conditions()}${group}`,
    ].join('\n');
  const shown = names.map((name) => `coalesce(${name}::text, 'unknown')`);
  const text = () => {
    if (names.length === 0) return select('1', []);
    if (!onNodes) return select(`grouping(${names[0]})`, shown, `\ngroup by grouping sets ((), (${names.join(', ')}))`);
    const overall = names.map(() => 'null::text');
    return `${select('1', overall)}\nunion all\n${select('0', shown, `\ngroup by ${names.join(', ')}`)}`;
  };
  // Sorted outside: an expression in order by cannot use an output column's name.
  const order = ['overall desc', 'value::numeric desc nulls last', ...names.map((_, index) => `d${index} collate "C"`)];
  return {
    text: `select * from (${text()}) as answer order by ${order.join(', ')} limit ${bind(query.maxRows + 2, 'bigint')}`,
    values,
  };
}

/** Writes a statement that counts the rows that a formula reads, up to a limit. */
export function writeCount(query: MetricQuery, limit: number): { text: string; values: unknown[] } {
  const { values, bind, conditions } = begin(query);
  const rows = `select from ${query.source.relation} as source where ${conditions()} limit ${bind(limit, 'bigint')}`;
  return { text: `select count(*) as rows from (${rows}) as read`, values };
}

/** The bound values of a statement, and its row conditions. */
function begin({ source, startDate, endDate, merchantId, filters }: MetricQuery) {
  const values: unknown[] = [];
  const bind = (value: unknown, cast: string) => `$${values.push(value)}::${cast}`;
  const columnOf = (name: string) => {
    if (!Object.hasOwn(source.columns, name)) throw new Error(`${source.name} has no column ${name}`);
    return source.columns[name]!;
  };
  const ofMerchant = () => {
    if (merchantId === null) return [];
    if (source.merchant === null) throw new Error(`${source.name} has no merchants`);
    return [`${source.merchant} = ${bind(merchantId, 'text')}`];
  };
  const conditions = () => {
    const { sql, type } = source.date;
    const [first, last] = [bind(startDate, 'date'), bind(endDate, 'date')];
    const range =
      type === 'date'
        ? `${sql} between ${first} and ${last}`
        : `${sql} >= ${first}::${type} and ${sql} < (${last} + 1)::${type}`;
    const filtered = filters.map((each) => {
      const among = `${columnOf(each.column).sql} = any(${bind(each.values, `${SQL_TYPE[each.type]}[]`)})`;
      return each.type === 'text' && each.values.includes('unknown')
        ? `(${among} or ${columnOf(each.column).sql} is null)`
        : among;
    });
    return [range, ...ofMerchant(), ...filtered].join(' and ');
  };
  return { values, bind, columnOf, conditions };
}
