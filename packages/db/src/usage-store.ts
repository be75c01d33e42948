import type { Day, Filters, GroupBy, PlanPart, SortBy, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, MeasureRow, Units } from './rows.ts';
import { type Executor, runSql } from './run-sql.ts';

/** The sums of some entries, in units. */
export type Sums = {
  requests: UnitsType;
  failed_requests: UnitsType;
  prompt_tokens: UnitsType;
  completion_tokens: UnitsType;
  cost: UnitsType;
};

/** Which entries, and from which sums they are read: every part must have the dimensions that are asked for. */
export type Scope = Omit<Filters, 'startDate' | 'endDate'> & { parts: readonly PlanPart[] };

export type Question = Scope & {
  by: GroupBy;
  sortBy: SortBy;
  order: 'asc' | 'desc';
  limit: number;
  after?: Position | undefined;
};

/** Where a page ended: the sort value and the key of its last row. */
export type Position = { value: string; key: string };

export type GroupRow = Sums & { key: string; sort_value: string; providers?: string[] | undefined };

/** `total` counts the rows of all pages; `named` those with requests that are not `unknown`. */
export type Grouped = { rows: GroupRow[]; totals: Sums; total: number; named: number };

export type Slot = Sums & { slot: number; key: string | null };

export type MerchantMetric = { merchant_id: string; date: Day; metric_type: string; metric_value: UnitsType };

export type UsageReader = {
  /** Sums by one dimension; an entry without it has the key `unknown`. `total` counts the rows of all pages. */
  breakdown(question: Question): Promise<Grouped>;
  /** Sums by day, days without usage left out. */
  byDay(scope: Scope): Promise<(Sums & { date: Day })[]>;
  /** The sums, and the users with at least one request. */
  totals(scope: Scope): Promise<Sums & { users: number }>;
  /**
   * Sums by period, counted from 0: `starts` are the moments at which the periods begin, in order; the last ends at
   * `end`. Periods without usage are left out. With `by` one row for each key of a period. At most `limit` rows.
   */
  series(
    scope: Scope & { starts: readonly number[]; end: number; by?: GroupBy | undefined; limit: number },
  ): Promise<Slot[]>;
  /** The first and last day that have usage but no entries in the journal any more; undefined where it has them all. */
  daysWithoutEntries(filters: Filters): Promise<{ first: Day; last: Day } | undefined>;
  /** Every value of a dimension, at most `limit`; of a model its providers too. */
  values(scope: Scope & { by: GroupBy; limit: number }): Promise<{ key: string; providers?: string[] | undefined }[]>;
  /** Rows of `merchant_usage`, by date and metric type. */
  merchantUsage(question: {
    merchantIds?: readonly string[];
    startDate: Day;
    endDate: Day;
    metricTypes?: readonly string[] | undefined;
  }): Promise<MerchantMetric[]>;
};

export type UsageStore = UsageReader & {
  /** Reads of one moment: what is counted meanwhile is in all of them or in none. */
  snapshot<T>(work: (reader: UsageReader) => Promise<T>): Promise<T>;
  /** The rows of a statement piece by piece, through a cursor of the server: bounded memory, one moment. */
  scan(question: ExportQuestion): AsyncGenerator<ExportRow[]>;
  /** When Postgres last counted anything; null before the first time. */
  lastFlushAt(): Promise<string | null>;
};

/** Without `by`: the rows of each day with all dimensions. */
export type ExportQuestion = Scope & { by?: GroupBy | undefined };

export type ExportRow = Sums & { dimensions: Record<string, string> };

/** Dimensions of an entry, as columns of the cubes. */
export const DIMENSIONS: Record<GroupBy, string> = {
  user: 'user_id',
  model: 'model',
  provider: 'provider',
  apiKey: 'api_key',
  merchant: 'merchant_id',
};

/** With the table's name: a bare one would be the page's column, which is text. */
const SORT: Record<SortBy, string> = {
  cost: 'groups.cost',
  requests: 'groups.requests',
  failedRequests: 'groups.failed_requests',
  promptTokens: 'groups.prompt_tokens',
  completionTokens: 'groups.completion_tokens',
  totalTokens: '(groups.prompt_tokens + groups.completion_tokens)',
  key: 'groups.key',
};

/** Which column says the time of a row, and how that is a moment. */
const TIME_COLUMN: Record<PlanPart['cube'], string> = {
  usage_monthly: 'month',
  usage_daily: 'date',
  usage_daily_models: 'date',
  usage_quarter_hours: 'bucket',
  usage_events: 'time',
};

const MEASURES = 'requests, failed_requests, prompt_tokens, completion_tokens, cost';

const SUMS = `
    coalesce(sum(requests), 0) as requests,
    coalesce(sum(failed_requests), 0) as failed_requests,
    coalesce(sum(prompt_tokens), 0) as prompt_tokens,
    coalesce(sum(completion_tokens), 0) as completion_tokens,
    coalesce(sum(cost), 0) as cost`;

const EXPORT_PIECE = 2_000;

/** Reading what has been counted. */
export function createUsageStore(dataSource: DataSource): UsageStore {
  return {
    ...readerOf(dataSource),

    snapshot: (work) =>
      dataSource.transaction('REPEATABLE READ', ({ queryRunner }) => work(readerOf(queryRunner as Executor))),

    async *scan(question) {
      const { bind, values } = bindings();
      const dimensions = question.by ? { key: DIMENSIONS[question.by] } : { date: 'date', ...ALL_DIMENSIONS };
      const columns = Object.entries(dimensions);
      const named = columns
        .map(([name, column]) => `'${name}', ${name === 'date' ? 'date' : known(column)}`)
        .join(', ');
      const list = columns.map(([, column]) => column).join(', ');
      const runner = dataSource.createQueryRunner();
      try {
        await runner.startTransaction('REPEATABLE READ');
        await runner.query(
          `declare export no scroll cursor for
           select json_build_object(${named}) as dimensions, ${SUMS}
           from (${source(question, list, bind)}) as part
           group by ${list} order by ${list}`,
          values,
        );
        for (;;) {
          const rows = (await runner.query(`fetch ${EXPORT_PIECE} from export`)) as unknown[];
          if (rows.length > 0) yield rows.map((row) => ScanRow.parse(row));
          if (rows.length < EXPORT_PIECE) return;
        }
      } finally {
        // Read only: there is nothing to keep, whether the reader stayed to the end or left.
        await runner.rollbackTransaction().catch(() => {});
        await runner.release();
      }
    },

    async lastFlushAt() {
      const [row] = await runSql(dataSource, 'last-flush', [], z.object({ started_at: z.date() }));
      return row?.started_at.toISOString() ?? null;
    },
  };
}

const ALL_DIMENSIONS = {
  merchantId: 'merchant_id',
  userId: 'user_id',
  apiKey: 'api_key',
  model: 'model',
  provider: 'provider',
};

function readerOf(executor: Executor): UsageReader {
  const rowsOf = async (text: string, values: unknown[]) => (await executor.query(text, values)) as unknown[];
  return {
    async breakdown(question) {
      const { bind, values } = bindings();
      const sort = SORT[question.sortBy];
      const byModel = question.by === 'model';
      const column = DIMENSIONS[question.by];
      const [compare, cast] = [question.order === 'asc' ? '>' : '<', question.sortBy === 'key' ? 'text' : 'numeric'];
      const collated = question.sortBy === 'key' ? `${sort} collate "C"` : sort;
      const groups = `
        with groups as materialized (
          select ${known(column)} as key, ${SUMS} ${byModel ? `, array_agg(distinct ${known('provider')}) as providers` : ''}
          from (${source(question, byModel ? 'model, provider' : column, bind)}) as part
          group by 1
        )`;
      const after = question.after
        ? `where (${sort}, groups.key collate "C") ${compare} (${bind(question.after.value)}::${cast}, ${bind(question.after.key)} collate "C")`
        : '';
      const [answer] = await rowsOf(
        `${groups}
        select
          (select json_agg(row_to_json(page)) from (
            select key, ${sort}::text as sort_value, requests::text, failed_requests::text, prompt_tokens::text,
              completion_tokens::text, cost::text ${byModel ? ', providers' : ''}
            from groups ${after}
            order by ${collated} ${question.order}, groups.key collate "C" ${question.order}
            limit ${bind(question.limit)}
          ) as page) as rows,
          (select count(*) from groups) as total,
          (select count(*) from groups where key <> 'unknown' and requests > 0) as named, totals.*
        from (select ${SUMS} from groups) as totals`,
        values,
      );
      const { rows, total, named, ...totals } = GroupedRow.parse(answer);
      return { rows: rows ?? [], total, named, totals };
    },

    async byDay(scope) {
      const { bind, values } = bindings();
      const rows = await rowsOf(
        `select date, ${SUMS} from (${source(scope, 'date', bind)}) as part group by date order by date`,
        values,
      );
      return rows.map((row) => DayRow.parse(row));
    },

    async totals(scope) {
      const { bind, values } = bindings();
      const [row] = await rowsOf(
        `with users as materialized (
           select user_id, ${SUMS} from (${source(scope, 'user_id', bind)}) as part group by user_id
         )
         select ${SUMS}, count(*) filter (where user_id <> '' and requests > 0) as users from users`,
        values,
      );
      return TotalsRow.parse(row);
    },

    async series({ starts, end, by, limit, ...scope }) {
      const { bind, values } = bindings();
      const moments = bind(starts.map((at) => new Date(at).toISOString()));
      const [from, to] = [bind(new Date(starts[0]!).toISOString()), bind(new Date(end).toISOString())];
      const rows = await rowsOf(
        `select width_bucket(at, ${moments}::timestamptz[]) - 1 as slot, ${by ? known(DIMENSIONS[by]) : 'null'} as key, ${SUMS}
         from (${source(scope, by ? DIMENSIONS[by] : '', bind, true)}) as part
         where at >= ${from}::timestamptz and at < ${to}::timestamptz
         group by 1, 2
         order by 1, cost desc, 2
         limit ${bind(limit)}`,
        values,
      );
      return rows.map((row) => SlotRow.parse(row));
    },

    async daysWithoutEntries({ startDate, endDate, ...filters }) {
      const { bind, values } = bindings();
      const parts = [{ cube: 'usage_daily' as const, startDate, endDate }];
      const [row] = await rowsOf(
        `select min(date) as first, max(date) as last
         from (select distinct date from (${source({ ...filters, parts }, 'date', bind)}) as part) as used
         where to_regclass('usage_events_' || to_char(date, 'YYYYMMDD')) is null`,
        values,
      );
      const { first, last } = GapRow.parse(row);
      return first === null || last === null ? undefined : { first, last };
    },

    async values({ by, limit, ...scope }) {
      const { bind, values } = bindings();
      const column = DIMENSIONS[by];
      const rows = await rowsOf(
        `select ${column} as key ${by === 'model' ? `, array_agg(distinct ${known('provider')}) as providers` : ''}
         from (${source(scope, by === 'model' ? 'model, provider' : column, bind)}) as part
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

const MerchantMetricRow = z.object({
  merchant_id: z.string(),
  date: DateText,
  metric_type: z.string(),
  metric_value: Units,
});
const providers = z.array(z.string()).optional();
const DayRow = z.object({ date: DateText, ...MeasureRow });
const TotalsRow = z.object({ users: z.string().transform(Number), ...MeasureRow });
const SlotRow = z.object({ slot: z.number().int(), key: z.string().nullable(), ...MeasureRow });
const GapRow = z.object({ first: DateText.nullable(), last: DateText.nullable() });
const ValueRow = z.object({ key: z.string(), providers });
const ScanRow = z.object({ dimensions: z.record(z.string(), z.string()), ...MeasureRow });
const GroupedRow = z.object({
  ...MeasureRow,
  total: z.string().transform(Number),
  named: z.string().transform(Number),
  rows: z.array(z.object({ key: z.string(), sort_value: z.string(), providers, ...MeasureRow })).nullable(),
});

type Bind = (value: unknown) => string;

function bindings(): { bind: Bind; values: unknown[] } {
  const values: unknown[] = [];
  return { values, bind: (value) => `$${values.push(value)}` };
}

/** A dimension as it is answered: '' in the cubes is an entry without it. */
const known = (column: string) => `coalesce(nullif(${column}, ''), 'unknown')`;

/** The rows of all parts that pass the filters; all filters hold at once, an empty list is no filter. */
function source({ parts, ...filters }: Scope, columns: string, bind: Bind, at = false): string {
  const conditions = Object.entries({
    merchant_id: filters.merchantIds,
    user_id: filters.userIds,
    model: filters.models,
    provider: filters.providers,
    api_key: filters.apiKeys,
  }).flatMap(([column, list]) =>
    list && list.length > 0
      ? [`and ${column} = any(${bind(list.map((value) => (value === 'unknown' ? '' : value)))}::text[])`]
      : [],
  );
  return parts
    .map(({ cube, startDate, endDate }) => {
      const time = TIME_COLUMN[cube];
      const [first, last] = [bind(startDate), bind(endDate)];
      const range =
        cube === 'usage_quarter_hours'
          ? `bucket >= ${first}::date and bucket < ${last}::date + 1`
          : `${cube === 'usage_events' ? 'date' : time} between ${first}::date and ${last}::date`;
      const selected = [...(columns ? [columns] : []), ...(at ? [`${time}::timestamptz as at`] : []), MEASURES];
      return `select ${selected.join(', ')} from ${cube} where ${range} ${conditions.join(' ')}`;
    })
    .join(' union all ');
}
