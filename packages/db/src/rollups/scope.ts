import {
  addDays,
  type Day,
  type Filters,
  type GroupBy,
  isMeasure,
  MEASURES,
  type PlanPart,
  quarterMonthOf,
} from '@tally/contracts';
import { z } from 'zod';
import { DateText } from '../rows.ts';
import { type Bind, type Executor, runSql } from '../run-sql.ts';
import type { SumOf } from '../unit-sums.ts';
import type { RolledUp } from './rolled-up.ts';
import { TEAM, withTeams } from './teams.ts';

/** Selects events, and the rollups to read them from: every part must have the requested dimensions. */
export type Scope = Omit<Filters, 'startDate' | 'endDate'> & {
  parts: readonly PlanPart[];
  /** The moment after which `usage_later` was counted. */
  asKnownOn?: string | undefined;
};

/** Dimensions of an event, as columns of the rollups. */
export const DIMENSIONS: Record<GroupBy, string> = {
  user: 'user_id',
  model: 'model',
  provider: 'provider',
  apiKey: 'api_key',
  merchant: 'merchant_id',
};

/** The same by the names of an event's fields. */
export const ALL_DIMENSIONS = {
  merchantId: 'merchant_id',
  userId: 'user_id',
  apiKey: 'api_key',
  model: 'model',
  provider: 'provider',
};

/** Measures that only imported snapshots leave open; read only from them. */
const UNTOLD = ['other_tokens', 'untold_requests'];

/** Returns true if a scope reads imported snapshots. */
export const readsDocuments = ({ parts }: Scope) => parts.some(({ cube }) => cube === 'daily_usage_cache');
/** Returns the measures of a scope: with imported snapshots, also those that they leave open. */
export const measuresOf = (scope: Scope) => (readsDocuments(scope) ? [...MEASURES, ...UNTOLD] : MEASURES);

/** What derived rollups lack at one moment; read together with them. */
export type Missing = {
  /** Flushes that are not derived yet, those of them without rows in `usage_flush_sums`, and the days of their events. */
  flushes?: { ids: string[]; unsummed: string[]; first: Day; last: Day } | undefined;
  /** Months and years lack the days that are not rolled up. */
  rolledUp: RolledUp;
  /** The same for quarters of a month; `date` is the first day of the quarter. */
  quarters: RolledUp;
};

const ALL: RolledUp = { date: '9999-12-31', merchantId: '' };
/** For tables that the counting transaction writes: they lack nothing. */
export const NOTHING_MISSING: Missing = { rolledUp: ALL, quarters: ALL };

/** Returns what derived rollups lack at the moment of a transaction. */
export async function missingOf(transaction: Executor): Promise<Missing> {
  const [row] = await runSql(transaction, 'pending-flushes', [], MissingRow);
  const { ids, unsummed, first, last, date, merchant_id: merchantId, quarter_month, quarter_merchant } = row!;
  const rolledUp = { date, merchantId };
  const quarters = { date: quarter_month, merchantId: quarter_merchant };
  const missing = { rolledUp, quarters };
  return first === null || last === null ? missing : { ...missing, flushes: { ids, unsummed, first, last } };
}

const MissingRow = z.object({
  ids: z.array(z.string()),
  unsummed: z.array(z.string()),
  first: DateText.nullable(),
  last: DateText.nullable(),
  date: DateText,
  merchant_id: z.string(),
  quarter_month: DateText,
  quarter_merchant: z.string(),
});

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
  { at = false, sum = 'sum', measures: needed, missing, isPendingNamed = false, only }: SourceOptions,
): string {
  const read = filtered(scope, bind);
  // A row that was not known then has no measure at all.
  const measures = needed && scope.asKnownOn === undefined ? needed : measuresOf(scope);
  const rows = scope.parts
    .flatMap(({ cube, startDate, endDate, less }) => {
      const [first, last] = [bind(startDate), bind(endDate)];
      const rowsOf = (table: string, time: string, range: string, given: readonly string[]) => {
        const type = sum === 'units_sum' && NUMERIC.has(table) ? '::bigint' : '';
        const selected = [
          // Imported days belong to no merchant.
          ...(columns
            ? [cube === 'daily_usage_cache' ? columns.replace('merchant_id', `'' as merchant_id`) : columns]
            : []),
          ...(at ? [`${time}::timestamptz as at`] : []),
          ...measures.map((name) =>
            given.includes(name) ? `${less ? '-' : ''}${name}${type} as ${name}` : `0 as ${name}`,
          ),
        ];
        const isIndexed = only?.byMerchant ? cube !== 'daily_usage_cache' : table === 'usage_platform_users';
        const chosen = only ? `and ${isIndexed ? only.indexed : only.hashed}` : '';
        return `select ${selected.join(', ')} ${read(table, range)} ${chosen}`;
      };
      const within = (column: string) => `${column} between ${first}::date and ${last}::date`;
      if (cube === 'usage_quarter_hours')
        return [rowsOf(cube, 'bucket', `bucket >= ${first}::date and bucket < ${last}::date + 1`, MEASURES)];
      // A void counts at the time of its event; any other correction has no time and counts at the start of its day.
      const timeOfCorrection = 'coalesce(time, date)';
      if (cube === 'usage_events') {
        return [
          rowsOf('usage_counted_events', 'time', within('date'), MEASURES),
          rowsOf('usage_counted_adjustments', timeOfCorrection, within('date'), MEASURES),
        ];
      }
      if (cube === 'usage_later') {
        const moment = `${bind(scope.asKnownOn)}::timestamptz`;
        const later = `flush_id in (select id from usage_flushes where started_at > ${moment})`;
        return [
          rowsOf('usage_counted_events', 'time', `${within('date')} and ${later}`, MEASURES),
          rowsOf(
            'usage_counted_adjustments',
            timeOfCorrection,
            `${within('date')} and created_at > ${moment}`,
            MEASURES,
          ),
        ];
      }
      if (cube === 'daily_usage_cache')
        return [rowsOf('usage_documents', 'date', `${within('date')} and ${kindOf(columns)}`, measures)];
      const arms = [rowsOf(cube, TIME[cube], within(TIME[cube]), MEASURES)];
      const { flushes } = missing;
      const isQuarters = cube === 'usage_quarter_months';
      const rolledUp = isQuarters ? missing.quarters : missing.rolledUp;
      const place = isQuarters ? '(usage_quarter_month(date), merchant_id)' : '(date, merchant_id)';
      const open = OPEN_DAYS[cube];
      const time = TIME[cube] === 'date' ? 'date' : PERIOD_OF_DAY[TIME[cube]];
      const days = (from: Day, to: Day) => `date between ${bind(from)}::date and ${bind(to)}::date`;
      // Some merchants of one day, or quarter of a month, are rolled up; the order of their ids is that of Postgres.
      const begun = () => `(${bind(rolledUp.date)}::date, ${bind(rolledUp.merchantId)}::text)`;
      const isBegun = rolledUp.merchantId !== '' && open !== 'usage_platform_daily';
      if (open && endDate >= rolledUp.date) {
        const range = days(max(startDate, rolledUp.date), endDate);
        arms.push(rowsOf(open, time, isBegun ? `${range} and ${place} > ${begun()}` : range, MEASURES));
      }
      // The finest rollups have events at once; the others once their flush is derived.
      const isFinest = cube === 'usage_daily' || open === 'usage_daily';
      const lastBegun = isQuarters ? quarterMonthOf(rolledUp.date).endDate : rolledUp.date;
      const lastRolledUp = isBegun ? lastBegun : addDays(rolledUp.date, -1);
      const lastMissing = isFinest ? min(endDate, lastRolledUp) : endDate;
      if (cube === 'usage_daily' || !flushes || flushes.first > lastMissing || flushes.last < startDate) return arms;
      // Names the days with pending events, so that other partitions are not even planned.
      const daysMissing = days(max(startDate, flushes.first), min(lastMissing, flushes.last));
      const inFlushes = (ids: readonly string[]) => `flush_id = any(${bind(ids)}::bigint[]) and ${daysMissing}`;
      const isSummed = SUMMED.has(cube);
      if (isSummed) arms.push(rowsOf('usage_flush_sums', time, inFlushes(flushes.ids), MEASURES));
      const ids = isSummed ? flushes.unsummed : flushes.ids;
      if (ids.length === 0) return arms;
      const isNamed = isPendingNamed && !isSummed;
      const range = isNamed ? daysMissing : inFlushes(ids);
      const ofRolledUp = isFinest && isBegun ? `and ${place} <= ${begun()}` : '';
      // Thousands of events are few groups: the rest of the statement sorts and adds those.
      const keys = [...(columns ? [columns] : []), ...(at ? [time] : [])];
      const selected = [
        ...(columns ? [columns] : []),
        ...(at ? [`${time}::timestamptz as at`] : []),
        ...measures.map((name) =>
          isMeasure(name) ? `${less ? '-' : ''}coalesce(${sum}(${name}), 0) as ${name}` : `0 as ${name}`,
        ),
      ];
      const groupBy = keys.length > 0 ? `group by ${keys.join(', ')}` : '';
      const events = isNamed ? 'pending' : 'usage_counted_events';
      arms.push(`select ${selected.join(', ')} ${read(events, `${range} ${ofRolledUp}`)}
        ${only ? `and ${only.hashed}` : ''} ${groupBy}`);
      return arms;
    })
    .join(' union all ');
  if (scope.asKnownOn === undefined) return rows;
  // What was not known then has no row, also where only names are listed.
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

export const max = (left: Day, right: Day) => (left > right ? left : right);
export const min = (left: Day, right: Day) => (left < right ? left : right);

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

/** Returns a function that reads the rows of a table, or of a view, that match a condition and all filters. */
export function filtered(filters: Omit<Scope, 'parts'>, bind: Bind): (table: string, condition: string) => string {
  const lists = {
    merchant_id: filters.merchantIds,
    user_id: filters.userIds,
    model: filters.models,
    provider: filters.providers,
    api_key: filters.apiKeys,
    [TEAM]: filters.teams,
  };
  const conditions = Object.entries(lists).flatMap(([column, list]) => {
    // A merchant may have the name `unknown`; elsewhere it stands for no value.
    const values = list?.map((value) => (value === 'unknown' && column !== 'merchant_id' ? '' : value));
    return values?.length ? [`and ${column} = any(${bind(values)}::text[])`] : [];
  });
  const join = filters.teams?.length ? withTeams : (table: string) => table;
  return (table, condition) => `from ${join(table)} where ${[condition, ...conditions].join(' ')}`;
}
