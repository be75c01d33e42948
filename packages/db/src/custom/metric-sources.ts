import { type BuiltInSource, type ColumnType, DIMENSIONS, MEASURES } from '@tally/contracts';

export type ValueType = ColumnType;

export type SourceColumn = {
  type: ValueType;
  /** The column as SQL, of the alias `source`. */
  sql: string;
  /** The amount in whole units, and the value of one: summing these takes less than half the time. */
  units?: { sql: string; worth: string };
};

/** A data source as SQL. None of it comes from a formula. */
export type SourceShape = {
  name: string;
  /** The view as SQL. */
  relation: string;
  /** By name, in lower case. */
  columns: Readonly<Record<string, SourceColumn>>;
  /** The column that the range of days filters. */
  date: { sql: string; type: 'date' | 'timestamp' | 'timestamptz' };
  /** The expression that names the merchant of a row; null: rows belong to no merchant. */
  merchant: string | null;
  /** Whether it has `metric('name')` and `property('name')`. */
  hasEvents: boolean;
  /** Whether Citus has its rows on several nodes. */
  isDistributed: boolean;
};

/** A registered view of the host application. */
export type HostSource = {
  name: string;
  /** `view` or `schema.view`. */
  view: string;
  columns: { name: string; type: ValueType; unit?: string | undefined }[];
  merchantColumn?: string | undefined;
  dateColumn: string;
};

const AMOUNTS = [...MEASURES, 'total_tokens'];

const plain = (type: ValueType, names: readonly string[]): [string, SourceColumn][] =>
  names.map((name) => [name, { type, sql: `source.${name}` }]);

const amounts = AMOUNTS.map((name): [string, SourceColumn] => {
  const units = { sql: `source.${name}_units`, worth: name === 'cost' ? '0.000000001' : '1' };
  return [name, { type: 'number', sql: `source.${name}`, units }];
});

const usage = [...plain('date', ['date']), ...plain('text', ['merchant_id', ...DIMENSIONS]), ...amounts];
const rollup = [
  ...plain('date', ['date', 'period_start', 'period_end']),
  ...plain('text', ['merchant_id', 'entity_type', 'entity_id', 'metric_type']),
  ...plain('number', ['value', 'daily_average', 'previous', 'growth_percent']),
];

const builtIn = (name: BuiltInSource, columns: [string, SourceColumn][]): SourceShape => ({
  name,
  relation: `tally_sources.${name}`,
  columns: Object.fromEntries(columns),
  date: { sql: 'source.date', type: 'date' },
  merchant: 'source.merchant_id',
  hasEvents: name === 'events',
  isDistributed: name === 'events' || name === 'usage',
});

/** The built-in sources. */
export const BUILT_IN_SOURCES: Readonly<Record<BuiltInSource, SourceShape>> = {
  events: builtIn('events', [...plain('time', ['time']), ...plain('text', ['status']), ...usage]),
  usage: builtIn('usage', usage),
  daily_metrics: builtIn('daily_metrics', rollup),
  weekly_metrics: builtIn('weekly_metrics', rollup),
  monthly_metrics: builtIn('monthly_metrics', rollup),
};

/** SQL types by kind. */
export const SQL_TYPE: Record<ValueType, string> = {
  number: 'numeric',
  text: 'text',
  boolean: 'boolean',
  date: 'date',
  time: 'timestamptz',
};

/** Quotes any name as SQL. */
export const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

/** Returns schema and name of a registered view. */
export function viewOf({ view }: Pick<HostSource, 'view'>): { schema: string; name: string } {
  const [first = '', second] = view.split('.');
  return second === undefined ? { schema: 'public', name: first } : { schema: first, name: second };
}

/** The shape of a registered view: every name quoted, every column cast to its registered type. */
export function hostShape(source: HostSource, dateType: SourceShape['date']['type']): SourceShape {
  const { schema, name } = viewOf(source);
  const column = (of: string) => `source.${quoted(of)}`;
  return {
    name: source.name,
    relation: `${quoted(schema)}.${quoted(name)}`,
    columns: Object.fromEntries(
      source.columns.map((each): [string, SourceColumn] => [
        each.name.toLowerCase(),
        { type: each.type, sql: `${column(each.name)}::${SQL_TYPE[each.type]}` },
      ]),
    ),
    date: { sql: column(source.dateColumn), type: dateType },
    merchant: source.merchantColumn === undefined ? null : `${column(source.merchantColumn)}::text`,
    hasEvents: false,
    isDistributed: false,
  };
}
