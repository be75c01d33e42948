import { addDays, type Day, isMeasure, MEASURES, type PlanPart, quarterMonthOf } from '@tally/contracts';
import type { Bind } from '../run-sql.ts';
import type { SumOf } from '../unit-sums.ts';
import type { Missing } from './missing.ts';
import { ALL_DIMENSIONS, filtered, max, measuresOf, min, type Scope } from './scope.ts';

type SourceOptions = {
  at?: boolean;
  sum?: SumOf;
  /** The measures to read; default: all. Each column that is read and not used costs time for every row. */
  measures?: readonly string[];
  missing: Missing;
  /** The statement has the rows of `pendingOf` under the name `pending`. */
  isPendingNamed?: boolean;
  /** Reads only some rows, by one condition in two forms. */
  only?: Condition;
};

/**
 * A condition on keys of groups. Postgres finds the values of an array by index, but compares each other row with each
 * of them: some thousand values and events took 13 s.
 */
export type Condition = {
  /** `key = any(array(…))`, for rollups whose index has the keys. */
  indexed: string;
  /** One look into a hash table for each row. */
  hashed: string;
  /** Whether the condition or the filters name merchants: without them, only `usage_platform_users` has an index. */
  byMerchant: boolean;
};

/** The condition that `keys` are among the rows of a subquery that is a hash table. */
export const isAmong = (keys: readonly string[], subquery: string): string =>
  // Without `is true` it could become a join, whose way is chosen by an estimate of these rows.
  `((${keys.join(', ')}) in (${subquery})) is true`;

/**
 * The events of flushes not yet derived, for parts that are read several times in a statement. Undefined if there are
 * none for them.
 */
function pendingOf(scope: Scope, bind: Bind, missing: Missing): string | undefined {
  const derived = scope.parts.filter(({ cube }) => cube in TIME && cube !== 'usage_daily' && !SUMMED.has(cube));
  if (!missing.flushes || derived.length === 0) return undefined;
  const { ids, first, last } = missing.flushes;
  const from = max(first, derived.map(({ startDate }) => startDate).reduce(min));
  const to = min(last, derived.map(({ endDate }) => endDate).reduce(max));
  if (from > to) return undefined;
  const range = `flush_id = any(${bind(ids)}::bigint[]) and date between ${bind(from)}::date and ${bind(to)}::date`;
  return `
    select ${['date', ...Object.values(ALL_DIMENSIONS), ...MEASURES].join(', ')}
    ${filtered(scope, bind)('usage_counted_events', range)}`;
}

/** Reads rows of a scope. `measures`: all by default; `only`: rows with some keys. */
export type Read = (scope: Scope, columns: string, more?: Pick<SourceOptions, 'measures' | 'only'>) => string;

/**
 * For statements that read several times: `read` reads parts of `all`, and `pending` is a table of the statement with
 * the events that these parts lack, found once; '' if there are none.
 */
export function sharingPending(
  all: Scope,
  bind: Bind,
  { sum, missing }: { sum: SumOf; missing: Missing },
): { pending: string; read: Read } {
  const pending = pendingOf(all, bind, missing);
  const isPendingNamed = pending !== undefined;
  return {
    pending: pending ? `pending as materialized (${pending}),` : '',
    read: (scope, columns, more) => source(scope, columns, bind, { sum, missing, isPendingNamed, ...more }),
  };
}

/**
 * The rows of all parts that pass the filters; all filters hold at once, and an empty list is no filter. A derived
 * rollup is read with what it lacks at the same moment, open days and events of flushes not yet derived, so that sums
 * are always exact.
 */
export function source(
  scope: Scope,
  columns: string,
  bind: Bind,
  { at = false, sum = 'sum', measures, missing, isPendingNamed = false, only }: SourceOptions,
): string {
  const reading: Reading = {
    bind,
    columns,
    at,
    sum,
    // A row that was not known then has no measure at all.
    measures: measures && scope.asKnownOn === undefined ? measures : measuresOf(scope),
    missing,
    isPendingNamed,
    only,
    asKnownOn: scope.asKnownOn,
    read: filtered(scope, bind),
  };
  const rows = scope.parts.flatMap((part) => rowsOfPart(part, reading)).join(' union all ');
  return scope.asKnownOn === undefined ? rows : knownRows(rows, reading);
}

/** What all parts of a statement have in common. */
type Reading = Required<Omit<SourceOptions, 'only'>> & {
  bind: Bind;
  columns: string;
  only: Condition | undefined;
  asKnownOn: string | undefined;
  read: ReturnType<typeof filtered>;
};

/** Reads rows of a table, with the column of their time, that meet a condition. */
type RowsFrom = (table: string, time: string, range: string) => string;

/** The selects of a part. */
function rowsOfPart(part: PlanPart, reading: Reading): string[] {
  const { bind, columns, sum, only, read } = reading;
  const { cube } = part;
  const [first, last] = [bind(part.startDate), bind(part.endDate)];
  const within = (column: string) => `${column} between ${first}::date and ${last}::date`;
  const rowsFrom: RowsFrom = (table, time, range) => {
    const type = sum === 'units_sum' && NUMERIC.has(table) ? '::bigint' : '';
    const isIndexed = only?.byMerchant ? cube !== 'daily_usage_cache' : table === 'usage_platform_users';
    const chosen = only ? `and ${isIndexed ? only.indexed : only.hashed}` : '';
    return `select ${selected(part, time, reading, (measure) => `${measure}${type}`)} ${read(table, range)} ${chosen}`;
  };
  /** A void counts at the time of its event; any other correction has no time and counts at the start of its day. */
  const journal = (events: string, adjustments: string) => [
    rowsFrom('usage_counted_events', 'time', events),
    rowsFrom('usage_counted_adjustments', 'coalesce(time, date)', adjustments),
  ];
  switch (cube) {
    case 'usage_quarter_hours':
      return [rowsFrom(cube, 'bucket', `bucket >= ${first}::date and bucket < ${last}::date + 1`)];
    case 'usage_events':
      return journal(within('date'), within('date'));
    case 'usage_later': {
      const moment = `${bind(reading.asKnownOn)}::timestamptz`;
      const isLater = `flush_id in (select id from usage_flushes where started_at > ${moment})`;
      return journal(`${within('date')} and ${isLater}`, `${within('date')} and created_at > ${moment}`);
    }
    case 'daily_usage_cache':
      return [rowsFrom('usage_documents', 'date', `${within('date')} and ${kindOf(columns)}`)];
    case 'usage_daily':
      return [rowsFrom(cube, 'date', within('date'))];
    default:
      return [rowsFrom(cube, TIME[cube], within(TIME[cube])), ...lacking({ ...part, cube }, reading, rowsFrom)];
  }
}

/** What a derived rollup lacks: days that are not rolled up, and events of flushes not yet derived. */
function lacking(part: PlanPart & { cube: keyof typeof TIME }, reading: Reading, rowsFrom: RowsFrom): string[] {
  const { cube, startDate, endDate } = part;
  const { bind, missing, isPendingNamed } = reading;
  const isQuarters = cube === 'usage_quarter_months';
  const rolledUp = isQuarters ? missing.quarters : missing.rolledUp;
  const place = isQuarters ? '(usage_quarter_month(date), merchant_id)' : '(date, merchant_id)';
  const open = OPEN_DAYS[cube];
  const time = TIME[cube] === 'date' ? 'date' : PERIOD_OF_DAY[TIME[cube]];
  const days = (from: Day, to: Day) => `date between ${bind(from)}::date and ${bind(to)}::date`;
  // Some merchants of one day, or quarter of a month, are rolled up; the order of their ids is that of Postgres.
  const begun = () => `(${bind(rolledUp.date)}::date, ${bind(rolledUp.merchantId)}::text)`;
  const isBegun = rolledUp.merchantId !== '' && open !== 'usage_platform_daily';
  const arms: string[] = [];
  if (open && endDate >= rolledUp.date) {
    const range = days(max(startDate, rolledUp.date), endDate);
    arms.push(rowsFrom(open, time, isBegun ? `${range} and ${place} > ${begun()}` : range));
  }

  // Open days of the finest rollup have events at once; all others once their flush is derived.
  const isFinest = open === 'usage_daily';
  const lastBegun = isQuarters ? quarterMonthOf(rolledUp.date).endDate : rolledUp.date;
  const lastRolledUp = isBegun ? lastBegun : addDays(rolledUp.date, -1);
  const lastMissing = isFinest ? min(endDate, lastRolledUp) : endDate;
  const { flushes } = missing;
  if (!flushes || flushes.first > lastMissing || flushes.last < startDate) return arms;
  // Names the days with pending events, so that other partitions are not even planned.
  const daysMissing = days(max(startDate, flushes.first), min(lastMissing, flushes.last));
  const inFlushes = (ids: readonly string[]) => `flush_id = any(${bind(ids)}::bigint[]) and ${daysMissing}`;
  const isSummed = SUMMED.has(cube);
  if (isSummed) arms.push(rowsFrom('usage_flush_sums', time, inFlushes(flushes.ids)));
  const ids = isSummed ? flushes.unsummed : flushes.ids;
  if (ids.length === 0) return arms;
  const isNamed = isPendingNamed && !isSummed;
  const range = isNamed ? daysMissing : inFlushes(ids);
  const ofRolledUp = isFinest && isBegun ? `and ${place} <= ${begun()}` : '';
  return [
    ...arms,
    summedEvents(part, time, isNamed ? 'pending' : 'usage_counted_events', `${range} ${ofRolledUp}`, reading),
  ];
}

/** Sums of events by group. Thousands of events are few groups: the rest of the statement sorts and adds those. */
function summedEvents(part: PlanPart, time: string, events: string, range: string, reading: Reading): string {
  const { columns, at, sum, only, read } = reading;
  const keys = [...(columns ? [columns] : []), ...(at ? [time] : [])];
  return `select ${selected(part, time, reading, (measure) => `coalesce(${sum}(${measure}), 0)`)} ${read(events, range)}
        ${only ? `and ${only.hashed}` : ''} ${keys.length > 0 ? `group by ${keys.join(', ')}` : ''}`;
}

/** Lists the columns, the moment and the measures of a part; what it takes away (`less`) has negative measures. */
function selected(
  { cube, less }: PlanPart,
  time: string,
  { columns, at, measures }: Reading,
  amountOf: (measure: string) => string,
): string {
  const isImported = cube === 'daily_usage_cache';
  return [
    // Imported days belong to no merchant.
    ...(columns ? [isImported ? columns.replace('merchant_id', `'' as merchant_id`) : columns] : []),
    ...(at ? [`${time}::timestamptz as at`] : []),
    ...measures.map((name) =>
      isImported || isMeasure(name) ? `${less ? '-' : ''}${amountOf(name)} as ${name}` : `0 as ${name}`,
    ),
  ].join(', ');
}

/** Sums the rows of each group: what was not known then has no row, also where only names are listed. */
function knownRows(rows: string, { columns, at, sum, measures }: Reading): string {
  const keys = [...(columns ? [columns] : []), ...(at ? ['at'] : [])];
  const type = sum === 'units_sum' ? '::bigint' : '';
  const sums = measures.map((name) => `sum(${name})${type} as ${name}`);
  const some = measures.map((name) => `sum(${name}) <> 0`).join(' or ');
  return `select ${[...keys, ...sums].join(', ')} from (${rows}) as known
    ${keys.length > 0 ? `group by ${keys.join(', ')}` : ''} having ${some}`;
}

/** Rollups that lack no more than `usage_flush_sums` has: a few sums of each flush in place of its events. */
const SUMMED = new Set<string>(['usage_platform_daily', 'usage_platform_monthly']);

/** The first day of the period that a row of a rollup sums. */
const TIME = {
  usage_yearly: 'year',
  usage_monthly: 'month',
  usage_quarter_months: 'quarter_month',
  usage_monthly_models: 'month',
  usage_daily: 'date',
  usage_daily_models: 'date',
  usage_platform_users: 'month',
  usage_platform_monthly: 'month',
  usage_platform_daily: 'date',
} as const;

/** The same of a row of a rollup of days. */
const PERIOD_OF_DAY = {
  year: `date_trunc('year', date)`,
  month: `date_trunc('month', date)`,
  quarter_month: 'usage_quarter_month(date)',
};

/** The rollups for days of periods that are not rolled up. */
const OPEN_DAYS: Partial<Record<PlanPart['cube'], 'usage_daily' | 'usage_daily_models' | 'usage_platform_daily'>> = {
  usage_yearly: 'usage_daily',
  usage_monthly: 'usage_daily',
  usage_quarter_months: 'usage_daily',
  usage_platform_users: 'usage_daily',
  usage_monthly_models: 'usage_daily_models',
  usage_platform_monthly: 'usage_platform_daily',
};

/** Derived rollups: their sums can exceed a bigint. */
const NUMERIC = new Set<string>([
  'usage_daily_models',
  'usage_yearly',
  'usage_monthly',
  'usage_quarter_months',
  'usage_monthly_models',
  'usage_platform_users',
  'usage_platform_monthly',
  'usage_platform_daily',
  'usage_flush_sums',
]);

/** Returns the grouping of a snapshot that has the requested dimension. */
function kindOf(columns: string): string {
  if (columns.includes('user_id')) return `kind = 'user'`;
  if (columns.includes('model')) return `kind = 'model'`;
  return columns.includes('provider') ? `kind = 'provider'` : 'whole';
}
