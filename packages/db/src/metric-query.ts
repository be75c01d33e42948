import type { Day, MetricSource } from '@tally/contracts';

export type ValueType = 'number' | 'text' | 'boolean' | 'date' | 'time';

/** A formula after its check: nothing here but what was understood, so whatever is written from it is ours. */
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
  source: MetricSource;
  formula: Expr;
  dimensions: readonly string[];
  filters: readonly { column: string; type: ValueType; values: readonly string[] }[];
  startDate: Day;
  endDate: Day;
  /** Null: all merchants. */
  merchantId: string | null;
  maxRows: number;
};

/** The columns that each source has, and the only names that ever reach SQL. */
export const SOURCE_COLUMNS: Record<MetricSource, Readonly<Record<string, ValueType>>> = (() => {
  const amounts = {
    requests: 'number',
    failed_requests: 'number',
    prompt_tokens: 'number',
    completion_tokens: 'number',
    total_tokens: 'number',
    cost: 'number',
  } as const;
  const dimensions = {
    date: 'date',
    merchant_id: 'text',
    user_id: 'text',
    api_key: 'text',
    model: 'text',
    provider: 'text',
  } as const;
  const rollup = {
    date: 'date',
    merchant_id: 'text',
    entity_type: 'text',
    entity_id: 'text',
    metric_type: 'text',
    period_start: 'date',
    period_end: 'date',
    value: 'number',
    daily_average: 'number',
    previous: 'number',
    growth_percent: 'number',
  } as const;
  return {
    events: { time: 'time', status: 'text', ...dimensions, ...amounts },
    usage: { ...dimensions, ...amounts },
    daily_metrics: rollup,
    weekly_metrics: rollup,
    monthly_metrics: rollup,
  };
})();

const CAST: Record<ValueType, string> = {
  number: 'numeric',
  text: 'text',
  boolean: 'boolean',
  date: 'date',
  time: 'timestamptz',
};

/** Amounts that a source also has whole, as they are kept: `cost` in nano-USD, all others as they are. */
const IN_UNITS: Readonly<Record<string, string>> = {
  requests: '1',
  failed_requests: '1',
  prompt_tokens: '1',
  completion_tokens: '1',
  total_tokens: '1',
  cost: '0.000000001',
};

/** Writes the statement of a checked formula; every value is bound, every name comes from SOURCE_COLUMNS. */
export function writeMetricQuery(query: MetricQuery): { text: string; values: unknown[] } {
  const values: unknown[] = [];
  const bind = (value: unknown, cast: string) => `$${values.push(value)}::${cast}`;
  const columns = SOURCE_COLUMNS[query.source];
  const column = (name: string) => {
    if (!Object.hasOwn(columns, name)) throw new Error(`${query.source} has no column ${name}`);
    return `source.${name}`;
  };
  /** The whole units of a plain amount, and what one is worth: the same result for less than half of the time. */
  const unitsOf = (expr: Expr): { column: string; worth: string } | undefined => {
    if (expr.kind !== 'column' || !Object.hasOwn(IN_UNITS, expr.name)) return undefined;
    return { column: `${column(expr.name)}_units`, worth: IN_UNITS[expr.name]! };
  };
  const write = (expr: Expr): string => {
    switch (expr.kind) {
      case 'column':
        return column(expr.name);
      case 'literal':
        return bind(expr.value, CAST[expr.type]);
      case 'metric':
        return `(source.metrics ->> ${bind(expr.name, 'text')})::numeric`;
      case 'property': {
        const name = bind(expr.name, 'text');
        if (expr.as === 'text') return `(source.properties ->> ${name})`;
        // The kind is looked at first: a text where a number is expected is none, and no error.
        return `(case jsonb_typeof(source.properties -> ${name}) when '${expr.as}' then (source.properties ->> ${name})::${CAST[expr.as]} end)`;
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
        const units = expr.name === 'avg' ? undefined : unitsOf(expr.arg);
        if (units) return `(${expr.name}(${units.column})${filter(expr.filter)} * ${units.worth}::numeric)`;
        return `(${expr.name}(${write(expr.arg)})${filter(expr.filter)})`;
      }
      case 'percentile': {
        const units = expr.exact === 'cont' ? unitsOf(expr.arg) : undefined;
        const arg = units?.column ?? write(expr.arg);
        const order = `order by ${arg}${expr.descending ? ' desc' : ''}`;
        const fraction = bind(expr.fraction, 'numeric');
        if (expr.exact === 'disc')
          return `(percentile_disc(${fraction}::float8) within group (${order})${filter(expr.filter)})`;
        const known = expr.filter ? `${write(expr.filter)} and ${arg} is not null` : `${arg} is not null`;
        const exact = `tally_sources.percentile_cont(array_agg(${arg} ${order}) filter (where ${known}), ${fraction})`;
        return units ? `(${exact} * ${units.worth}::numeric)` : exact;
      }
    }
  };
  const filter = (condition: Expr | null) => (condition ? ` filter (where ${write(condition)})` : '');

  const conditions = [
    `source.date between ${bind(query.startDate, 'date')} and ${bind(query.endDate, 'date')}`,
    ...(query.merchantId === null ? [] : [`source.merchant_id = ${bind(query.merchantId, 'text')}`]),
    ...query.filters.map((each) => {
      const among = `${column(each.column)} = any(${bind(each.values, `${CAST[each.type]}[]`)})`;
      return each.type === 'text' && each.values.includes('unknown')
        ? `(${among} or ${column(each.column)} is null)`
        : among;
    }),
  ];
  const names = query.dimensions.map(column);
  const shown = names.map((name, index) => `coalesce(${name}::text, 'unknown') as d${index}`);
  const overall = names.length === 0 ? '1' : `grouping(${names[0]})`;
  const text = [
    `select ${[`${overall} as overall`, ...shown, `(${write(query.formula)})::text as value`].join(', ')}`,
    `from tally_sources.${query.source} as source`,
    `where ${conditions.join(' and ')}`,
    ...(names.length === 0 ? [] : [`group by grouping sets ((), (${names.join(', ')}))`]),
  ].join('\n');
  // Sorted outside: an output column's name may not be part of an expression in order by.
  const order = ['overall desc', 'value::numeric desc nulls last', ...names.map((_, index) => `d${index} collate "C"`)];
  return {
    text: `select * from (${text}) as answer order by ${order.join(', ')} limit ${bind(query.maxRows + 2, 'bigint')}`,
    values,
  };
}
