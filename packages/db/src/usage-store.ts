import type { Day, Filters, GroupBy, SortBy, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, MeasureRow, Units } from './rows.ts';
import { runSql } from './run-sql.ts';

/** The sums of some entries, in units. */
export type Sums = {
  requests: UnitsType;
  failed_requests: UnitsType;
  prompt_tokens: UnitsType;
  completion_tokens: UnitsType;
  cost: UnitsType;
};

export type Question = Filters & {
  by: GroupBy;
  sortBy: SortBy;
  order: 'asc' | 'desc';
  limit: number;
  after?: Position;
};

/** Where a page ended: the sort value and the key of its last row. */
export type Position = { value: string; key: string };

export type Grouped = {
  rows: (Sums & { key: string; sort_value: string })[];
  totals: Sums;
  total: number;
};

export type MerchantMetric = { merchant_id: string; date: Day; metric_type: string; metric_value: UnitsType };

export type UsageStore = {
  /** Sums by one dimension; an entry without it has the key `unknown`. `total` counts the rows of all pages. */
  breakdown(question: Question): Promise<Grouped>;
  /** Sums by day, days without usage left out. */
  byDay(filters: Filters): Promise<(Sums & { date: Day })[]>;
  /** Users with at least one request. */
  countUsers(filters: Filters): Promise<number>;
  /** Rows of `merchant_usage`, by date and metric type. */
  merchantUsage(question: {
    merchantIds?: readonly string[];
    startDate: Day;
    endDate: Day;
    metricTypes?: readonly string[] | undefined;
  }): Promise<MerchantMetric[]>;
  /** When Postgres last counted anything; null before the first time. */
  lastFlushAt(): Promise<string | null>;
};

const COLUMN: Record<GroupBy, string> = {
  user: 'user_id',
  model: 'model',
  provider: 'provider',
  apiKey: 'api_key',
  merchant: 'merchant_id',
};

const SORT: Record<SortBy, string> = {
  cost: 'cost',
  requests: 'requests',
  failedRequests: 'failed_requests',
  promptTokens: 'prompt_tokens',
  completionTokens: 'completion_tokens',
  totalTokens: '(prompt_tokens + completion_tokens)',
  key: 'key',
};

const SUMS = `
    coalesce(sum(requests), 0) as requests,
    coalesce(sum(failed_requests), 0) as failed_requests,
    coalesce(sum(prompt_tokens), 0) as prompt_tokens,
    coalesce(sum(completion_tokens), 0) as completion_tokens,
    coalesce(sum(cost), 0) as cost`;

/** Reading what has been counted. */
export function createUsageStore(dataSource: DataSource): UsageStore {
  return {
    async breakdown(question) {
      const { text, values } = where(question);
      const sort = SORT[question.sortBy];
      const [compare, cast] = [question.order === 'asc' ? '>' : '<', question.sortBy === 'key' ? 'text' : 'numeric'];
      const groups = `
        with groups as materialized (
          select coalesce(nullif(${COLUMN[question.by]}, ''), 'unknown') as key, ${SUMS}
          from usage_daily
          where ${text}
          group by 1
        )`;
      const bind = (value: unknown) => `$${values.push(value)}`;
      const limit = bind(question.limit);
      const position = question.after;
      const after = position
        ? `where (${sort}, key collate "C") ${compare} (${bind(position.value)}::${cast}, ${bind(position.key)} collate "C")`
        : '';
      const page = `
        ${groups}
        select
          (select json_agg(row_to_json(page)) from (
            select key, ${sort}::text as sort_value, requests::text, failed_requests::text, prompt_tokens::text,
              completion_tokens::text, cost::text
            from groups ${after}
            order by ${sort} ${question.sortBy === 'key' ? 'collate "C"' : ''} ${question.order}, key collate "C" ${question.order}
            limit ${limit}
          ) as page) as rows,
          (select count(*) from groups) as total, totals.*
        from (select ${SUMS} from groups) as totals`;
      const [answer] = (await dataSource.query(page, values)) as unknown[];
      const { rows, total, ...totals } = BreakdownRow.parse(answer);
      return { rows: rows ?? [], total, totals };
    },

    async byDay(filters) {
      const { text, values } = where(filters);
      const rows = (await dataSource.query(
        `select date, ${SUMS} from usage_daily where ${text} group by date order by date`,
        values,
      )) as unknown[];
      return rows.map((row) => DayRow.parse(row));
    },

    async countUsers(filters) {
      const { text, values } = where(filters);
      const [row] = (await dataSource.query(
        `select count(distinct user_id) as users from usage_daily where ${text} and user_id <> '' and requests > 0`,
        values,
      )) as unknown[];
      return UsersRow.parse(row).users;
    },

    merchantUsage: ({ merchantIds, startDate, endDate, metricTypes }) =>
      runSql(
        dataSource,
        'merchant-usage',
        [merchantIds ?? null, startDate, endDate, metricTypes?.length ? metricTypes : null],
        MerchantMetricRow,
      ),

    async lastFlushAt() {
      const [row] = await runSql(dataSource, 'last-flush', [], z.object({ started_at: z.date() }));
      return row?.started_at.toISOString() ?? null;
    },
  };
}

const MerchantMetricRow = z.object({
  merchant_id: z.string(),
  date: DateText,
  metric_type: z.string(),
  metric_value: Units,
});
const UsersRow = z.object({ users: z.string().transform(Number) });
const DayRow = z.object({ date: DateText, ...MeasureRow });
const BreakdownRow = z.object({
  ...MeasureRow,
  total: z.string().transform(Number),
  rows: z.array(z.object({ key: z.string(), sort_value: z.string(), ...MeasureRow })).nullable(),
});

/** All filters hold at once; an empty list is no filter. `unknown` asks for entries without the dimension. */
function where(filters: Filters): { text: string; values: unknown[] } {
  const values: unknown[] = [filters.startDate, filters.endDate];
  const conditions = ['date between $1 and $2'];
  const among = (column: string, list: readonly string[] | undefined) => {
    if (!list || list.length === 0) return;
    values.push(list.map((value) => (value === 'unknown' ? '' : value)));
    conditions.push(`${column} = any($${values.length}::text[])`);
  };
  among('merchant_id', filters.merchantIds);
  among('user_id', filters.userIds);
  among('model', filters.models);
  among('provider', filters.providers);
  among('api_key', filters.apiKeys);
  return { text: conditions.join(' and '), values };
}
