import {
  type BreakdownBy,
  type Day,
  type Filters,
  type GroupBy,
  type Grouping,
  MEASURES,
  type Measure,
  type PlanPart,
  type SortBy,
  type Units as UnitsType,
} from '@tally/contracts';
import { z } from 'zod';
import { DateText, MeasureRow, Units } from '../rows.ts';
import { bindings, type Executor, runSql } from '../run-sql.ts';
import type { SumOf } from '../unit-sums.ts';
import { breakdownStatement, MAX_UNSURE } from './breakdown-statement.ts';
import { anySum, columnOf, columnsOf, grouped, known, PROVIDERS, sumsOf, userOf } from './grouping.ts';
import type { Missing } from './missing.ts';
import { overviewStatement } from './overview-statement.ts';
import { ALL_DIMENSIONS, DIMENSIONS, filtered, readsDocuments, type Scope } from './scope.ts';
import { source } from './source.ts';

/** The sums of some events, in units. */
export type Sums = Record<Measure, UnitsType> & {
  /** Imported days may not split them: tokens that are neither prompt nor completion, requests that may have failed. */
  other_tokens?: UnitsType | undefined;
  untold_requests?: UnitsType | undefined;
};

export type Question = Scope & {
  by: BreakdownBy;
  sortBy: SortBy;
  order: 'asc' | 'desc';
  limit: number;
  after?: Position | undefined;
  /**
   * Rollups for the totals alone. With them, all groups are ranked by few measures, and only the first ones are read
   * again with all measures: quicker where groups are many. Not for teams, nor with imported days.
   */
  totals?: readonly PlanPart[] | undefined;
};

/** The position at which a page ended: the sort value and the keys of its last row. */
export type Position = { value: string; keys: readonly string[] };

/** A key for each grouping. */
export type GroupRow = Sums & { keys: string[]; sort_value: string; providers?: string[] | undefined };

/** `total` counts the rows of all pages. */
export type Grouped = { rows: GroupRow[]; totals: Sums; total: number };

/** The rollups to read users, models and days from, and how many of the first two to return. */
export type OverviewQuestion = Omit<Scope, 'parts'> & {
  parts: Record<'users' | 'models' | 'days', readonly PlanPart[]>;
  limits: Record<'users' | 'models', number>;
};

export type Overview = {
  /** Users with at least one request, as `activeUsers` counts them. */
  activeUsers: number;
  /** The users and the models with the highest cost, in order; users only if they have requests or costs. */
  users: GroupRow[];
  models: GroupRow[];
  byDay: (Sums & { date: Day })[];
};

export type Slot = Sums & { slot: number; key: string | null };

export type MerchantMetric = { merchant_id: string; date: Day; metric_type: string; metric_value: UnitsType };

export type UsageReader = {
  /**
   * Sums by one grouping or two. An event without a dimension has the key `unknown`; a group whose sums are all zero is
   * no row. `total` counts the rows of all pages.
   */
  breakdown(question: Question): Promise<Grouped>;
  /** Sums by day, without days that have no usage. */
  byDay(scope: Scope): Promise<(Sums & { date: Day })[]>;
  totals(scope: Scope): Promise<Sums>;
  /** Counts users with at least one request. Events without a user count for none; a user of two merchants is two. */
  activeUsers(scope: Scope): Promise<number>;
  /** Reads everything that a summary has of one period, in one statement. */
  overview(question: OverviewQuestion): Promise<Overview>;
  /**
   * Sums by period, counted from 0: `starts` are the starts of the periods, in order; the last ends at `end`. Leaves
   * out periods without usage. With `by`, one row per key and period. At most `limit` rows.
   */
  series(
    scope: Scope & { starts: readonly number[]; end: number; by?: Grouping | undefined; limit: number },
  ): Promise<Slot[]>;
  /** Sums by window and by any dimensions; like `series`, with the keys of a row in the order of `by`. */
  windows(
    scope: Scope & { starts: readonly number[]; end: number; by: readonly GroupBy[]; limit: number },
  ): Promise<(Sums & { slot: number; keys: string[] })[]>;
  /** Counts the keys of each period of the rollups read, at most `limit`. */
  keysByPeriod(scope: Scope & { by: GroupBy; limit: number }): Promise<number>;
  /** Returns the first and last day whose events are no longer in the journal; undefined if it has all. */
  daysWithoutEntries(filters: Filters): Promise<{ first: Day; last: Day } | undefined>;
  /** Returns every value of a dimension, at most `limit`; for a model with its providers. */
  values(scope: Scope & { by: GroupBy; limit: number }): Promise<{ key: string; providers?: string[] | undefined }[]>;
  /** Returns rows of `merchant_usage`, by date and metric type. */
  merchantUsage(question: {
    merchantIds?: readonly string[];
    startDate: Day;
    endDate: Day;
    metricTypes?: readonly string[] | undefined;
  }): Promise<MerchantMetric[]>;
};

/** Without `by`: the rows of each day with all dimensions, without rows that sum to zero. */
export type ExportQuestion = Scope & { by?: BreakdownBy | undefined };

/** With `by`, the dimensions are `key_1` and, for two groupings, `key_2`. A model has its providers. */
export type ExportRow = Sums & { dimensions: Record<string, string>; providers?: string[] | undefined };

/**
 * Creates a reader that sums possibly many groups with `fastest`, and reads what is `missing` beside derived rollups.
 */
export function readerOf(executor: Executor, fastest: SumOf, missing: Missing): UsageReader {
  const sumFor = (scope: Scope): SumOf => (readsDocuments(scope) ? 'sum' : fastest);
  const rowsOf = async (text: string, values: unknown[]) => (await executor.query(text, values)) as unknown[];
  return {
    async breakdown(question) {
      const { text, values } = breakdownStatement(question, { sum: sumFor(question), missing });
      const [answer] = await rowsOf(text, values);
      const { rows, total, unsure, ...sums } = GroupedRow.parse(answer);
      if (unsure > MAX_UNSURE) return this.breakdown({ ...question, totals: undefined });
      return { rows: rows ?? [], total, totals: sums };
    },

    async byDay(scope) {
      const { bind, values } = bindings();
      const rows = await rowsOf(
        `select date, ${sumsOf(scope)} from (${source(scope, 'date', bind, { missing })}) as part group by date order by date`,
        values,
      );
      return rows.map((row) => DayRow.parse(row));
    },

    async totals(scope) {
      const { bind, values } = bindings();
      const [row] = await rowsOf(
        `select ${sumsOf(scope)} from (${source(scope, '', bind, { missing })}) as part`,
        values,
      );
      return TotalsRow.parse(row);
    },

    async activeUsers(scope) {
      const { bind, values } = bindings();
      const sum = sumFor(scope);
      const user = userOf(scope);
      const [row] = await rowsOf(
        `select count(*) as users
         from (
           select 1 from (${source(scope, user, bind, { sum, missing, measures: ['requests'] })}) as part
           where user_id <> '' group by ${user} having ${sum}(requests) > 0
         ) as active`,
        values,
      );
      return ActiveRow.parse(row).users;
    },

    async overview(question) {
      const { text, values } = overviewStatement(question, { sumFor, missing });
      const [answer] = await rowsOf(text, values);
      const { active_users: activeUsers, users, models, by_day: byDay } = OverviewRow.parse(answer);
      return { activeUsers, users: users ?? [], models: models ?? [], byDay: byDay ?? [] };
    },

    async series({ starts, end, by, limit, ...scope }) {
      const { bind, values } = bindings();
      const moments = bind(starts.map((at) => new Date(at).toISOString()));
      const [from, to] = [bind(new Date(starts[0]!).toISOString()), bind(new Date(end).toISOString())];
      const groupings = by ? [by] : [];
      const rows = await rowsOf(
        `select width_bucket(at, ${moments}::timestamptz[]) - 1 as slot, ${by ? known(columnOf(by)) : 'null'} as key, ${sumsOf(scope)}
         from ${grouped(groupings, source(scope, columnsOf(groupings), bind, { at: true, missing }), { sums: sumsOf(scope), some: anySum(scope), time: 'at' })}
         where at >= ${from}::timestamptz and at < ${to}::timestamptz
         group by 1, 2
         order by 1, cost desc, 2
         limit ${bind(limit)}`,
        values,
      );
      return rows.map((row) => SlotRow.parse(row));
    },

    async windows({ starts, end, by, limit, ...scope }) {
      const { bind, values } = bindings();
      const moments = bind(starts.map((at) => new Date(at).toISOString()));
      const [from, to] = [bind(new Date(starts[0]!).toISOString()), bind(new Date(end).toISOString())];
      const columns = by.map((name) => DIMENSIONS[name]);
      const keys = columns.map(known);
      const rows = await rowsOf(
        `select width_bucket(at, ${moments}::timestamptz[]) - 1 as slot,
           ${keys.length > 0 ? `array[${keys.join(', ')}]` : 'array[]::text[]'} as keys, ${sumsOf(scope)}
         from (${source(scope, columns.join(', '), bind, { at: true, missing })}) as part
         where at >= ${from}::timestamptz and at < ${to}::timestamptz
         group by ${['slot', ...columns].join(', ')}
         order by ${['slot', ...columns].join(', ')}
         limit ${bind(limit)}`,
        values,
      );
      return rows.map((row) => WindowRow.parse(row));
    },

    async keysByPeriod({ by, limit, ...scope }) {
      const { bind, values } = bindings();
      const column = DIMENSIONS[by];
      const [row] = await rowsOf(
        `select count(*) as count
         from (
           select 1 from (${source(scope, column, bind, { at: true, missing })}) as part
           group by at, ${column} limit ${bind(limit)}
         ) as keys`,
        values,
      );
      return CountRow.parse(row).count;
    },

    async daysWithoutEntries({ startDate, endDate, ...filters }) {
      const { bind, values } = bindings();
      const read = filtered(filters, bind);
      const range = `date between ${bind(startDate)}::date and ${bind(endDate)}::date`;
      const less = MEASURES.map((name) => `-${name}`).join(', ');
      const [row] = await rowsOf(
        `select min(date) as first, max(date) as last
         from (
           select date
           from (
             select date, ${MEASURES.join(', ')} ${read('usage_daily', range)}
             union all
             select date, ${less} ${read('usage_adjustments', range)}
           ) as counted
           group by date
           having (${MEASURES.map((name) => `sum(${name})`).join(', ')}) is distinct from (0, 0, 0, 0, 0)
         ) as by_entries
         where to_regclass('usage_events_' || to_char(date, 'YYYYMMDD')) is null`,
        values,
      );
      const gap = GapRow.parse(row);
      return gap.first === null || gap.last === null ? undefined : { first: gap.first, last: gap.last };
    },

    async values({ by, limit, ...scope }) {
      const { bind, values } = bindings();
      const column = DIMENSIONS[by];
      const rows = await rowsOf(
        `select ${column} as key ${by === 'model' ? `, ${PROVIDERS}` : ''}
         from (${source(scope, by === 'model' ? 'model, provider' : column, bind, { missing })}) as part
         where ${column} <> ''
         group by ${column}
         order by ${column} collate "C"
         limit ${bind(limit)}`,
        values,
      );
      return rows.map((row) => ValueRow.parse(row));
    },

    merchantUsage: ({ merchantIds, startDate, endDate, metricTypes }) =>
      runSql(
        executor,
        'merchant-usage',
        [merchantIds ?? null, startDate, endDate, metricTypes?.length ? metricTypes : null],
        MerchantMetricRow,
      ),
  };
}

/** Returns the statement of the events of a range in the journal, by day, merchant and id. */
export function eventsStatement({ startDate, endDate, ...filters }: Filters): { values: unknown[]; text: string } {
  const { bind, values } = bindings();
  const range = `date between ${bind(startDate)}::date and ${bind(endDate)}::date`;
  const text = `
    select date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
      ${MEASURES.join(', ')}, metrics, properties, price_version
    ${filtered(filters, bind)('usage_events', range)}
    order by date, merchant_id, id`;
  return { values, text };
}

/**
 * Returns the statement of an export, as a function of what derived rollups lack, and its values. Groups are in the order
 * of a breakdown by key.
 */
export function exportStatement(question: ExportQuestion): {
  values: unknown[];
  statement(missing: Missing): string;
} {
  const { bind, values } = bindings();
  const groupings: Grouping[] = question.by === undefined ? [] : [question.by].flat();
  const dimensions =
    question.by === undefined
      ? { date: 'date', ...ALL_DIMENSIONS }
      : Object.fromEntries(groupings.map((by, index) => [`key_${index + 1}`, columnOf(by)]));
  const columns = Object.entries(dimensions);
  const named = columns.map(([name, column]) => `'${name}', ${name === 'date' ? 'date' : known(column)}`).join(', ');
  const list = columns.map(([, column]) => column).join(', ');
  const order = groupings.length > 0 ? columns.map(([, column]) => `${known(column)} collate "C"`).join(', ') : list;
  const byModel = question.by === 'model';
  const read = groupings.length > 0 ? columnsOf(groupings) : list;
  const statement = (missing: Missing) => `
          select json_build_object(${named}) as dimensions, ${sumsOf(question)} ${byModel ? `, ${PROVIDERS}` : ''}
          from ${grouped(groupings, source(question, read, bind, { missing }), { sums: sumsOf(question), some: anySum(question) })}
          group by ${list} having ${anySum(question)} order by ${order}`;
  return { values, statement };
}

const MerchantMetricRow = z.object({
  merchant_id: z.string(),
  date: DateText,
  metric_type: z.string(),
  metric_value: Units,
});
const providers = z.array(z.string()).optional();
const SumsRow = { ...MeasureRow, other_tokens: Units.optional(), untold_requests: Units.optional() };
const DayRow = z.object({ date: DateText, ...SumsRow });
const TotalsRow = z.object(SumsRow);
const ActiveRow = z.object({ users: z.string().transform(Number) });
const CountRow = z.object({ count: z.string().transform(Number) });
const SlotRow = z.object({ slot: z.number().int(), key: z.string().nullable(), ...SumsRow });
const WindowRow = z.object({ slot: z.number().int(), keys: z.array(z.string()), ...SumsRow });
const GapRow = z.object({ first: DateText.nullable(), last: DateText.nullable() });
const ValueRow = z.object({ key: z.string(), providers });
/** A row of an export, as its statement returns it. */
export const ScanRow = z.object({ dimensions: z.record(z.string(), z.string()), providers, ...SumsRow });
const GroupsRow = z
  .array(z.object({ keys: z.array(z.string()), sort_value: z.string(), providers, ...SumsRow }))
  .nullable();
const GroupedRow = z.object({ ...SumsRow, total: z.string().transform(Number), unsure: z.number(), rows: GroupsRow });
const OverviewRow = z.object({
  active_users: z.string().transform(Number),
  users: GroupsRow,
  models: GroupsRow,
  by_day: z.array(DayRow).nullable(),
});
