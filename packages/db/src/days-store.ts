import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText } from './rows.ts';
import { runSql } from './run-sql.ts';

export type DayStatus = { date: Day; status: 'complete' | 'partial' | null; cachedAt: string | null; current: boolean };

export type DayGroup = {
  kind: 'user' | 'model' | 'provider';
  key: string;
  requests: string;
  total_tokens: string;
  /** Null in documents that have only the total. */
  prompt_tokens: string | null;
  completion_tokens: string | null;
  cost: string;
};

export type DaysStore = {
  /** Writes these days' documents anew, all in one statement and from one moment; returns how many. */
  rebuild(days: readonly { date: Day; status: 'complete' | 'partial' }[]): Promise<number>;
  /** Days with usage or a document, in order; `current` says that nothing was counted since it was made. */
  status(startDate: Day, endDate: Day): Promise<DayStatus[]>;
  /** What a day's document says, by key. */
  groups(date: Day): Promise<DayGroup[]>;
};

const status = z.enum(['complete', 'partial']).nullable();
const StatusRow = z.object({
  date: DateText,
  cache_status: status,
  cached_at: z
    .date()
    .transform((at) => at.toISOString())
    .nullable(),
  current: z.boolean(),
});
const GroupRow = z.object({
  kind: z.enum(['user', 'model', 'provider']),
  key: z.string(),
  requests: z.string(),
  total_tokens: z.string(),
  prompt_tokens: z.string().nullable(),
  completion_tokens: z.string().nullable(),
  cost: z.string(),
});

/** The day documents, in `daily_usage_cache`. */
export function createDaysStore(dataSource: DataSource): DaysStore {
  return {
    async rebuild(days) {
      const values = [days.map((day) => day.date), days.map((day) => day.status)];
      return (await runSql(dataSource, 'rebuild-days', values, z.object({ date: DateText }))).length;
    },
    async status(startDate, endDate) {
      const rows = await runSql(dataSource, 'days-status', [startDate, endDate], StatusRow);
      return rows.map(({ date, cache_status, cached_at, current }) => ({
        date,
        status: cache_status,
        cachedAt: cached_at,
        current,
      }));
    },
    groups: (date) => runSql(dataSource, 'read-day', [date], GroupRow),
  };
}
