import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { LOCKS } from '../locks.ts';
import { afterCommits } from '../one-moment.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';

export type DayStatus = {
  date: Day;
  status: 'complete' | 'partial' | null;
  cachedAt: string | null;
  current: boolean;
  imported: boolean;
};

/** A day imported from another system as flat sums; JSON text per grouping. */
export type FlatDay = {
  date: Day;
  byUser: string | null;
  byModel: string | null;
  byProvider: string | null;
  status: 'complete' | 'partial';
};

export type DayToWrite = { date: Day; status: 'complete' | 'partial' };

export type ImportedDay = {
  date: Day;
  status: 'complete' | 'partial';
  /** The day has counted usage, and is answered from that. */
  counted: boolean;
  by_user: boolean;
  by_model: boolean;
  by_provider: boolean;
};

export type DayGroup = {
  kind: 'user' | 'model' | 'provider';
  key: string;
  requests: string;
  total_tokens: string;
  /** Null in snapshots that have only total tokens. */
  prompt_tokens: string | null;
  completion_tokens: string | null;
  cost: string;
};

export type DaysStore = {
  /**
   * Rebuilds the snapshots of these days from one moment; returns their number. One caller per day at a time: with
   * `onlyStale` the next one makes only what is still stale. Imported snapshots stay.
   */
  rebuild(days: readonly DayToWrite[], options: { onlyStale: boolean }): Promise<number>;
  /** Stores imported snapshots, replacing earlier ones. */
  importFlat(days: readonly FlatDay[]): Promise<void>;
  /** Returns the imported snapshots of a range, in order. */
  imported(startDate: Day, endDate: Day): Promise<ImportedDay[]>;
  /** Deletes the imported snapshots of these days. */
  forgetImported(dates: readonly Day[]): Promise<void>;
  /** Returns days with usage or a snapshot, in order; `current`: nothing was counted since the snapshot was made. */
  status(startDate: Day, endDate: Day): Promise<DayStatus[]>;
  /** Returns the sums of a day's snapshot, by key. */
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
  imported: z.boolean(),
});
const ImportedRow = z.object({
  date: DateText,
  status: z.enum(['complete', 'partial']),
  counted: z.boolean(),
  by_user: z.boolean(),
  by_model: z.boolean(),
  by_provider: z.boolean(),
});
const VersionRow = z.object({ changes: z.string() });
const GroupRow = z.object({
  kind: z.enum(['user', 'model', 'provider']),
  key: z.string(),
  requests: z.string(),
  total_tokens: z.string(),
  prompt_tokens: z.string().nullable(),
  completion_tokens: z.string().nullable(),
  cost: z.string(),
});

/** Returns those of `days` whose snapshot is missing, stale, or partial although it can be complete now. */
async function staleOf(executor: Executor, days: readonly DayToWrite[]): Promise<DayToWrite[]> {
  const dates = days.map((day) => day.date).sort();
  const rows = await runSql(executor, 'days-status', [dates[0], dates.at(-1)], StatusRow);
  const known = new Map(rows.map((row) => [row.date, row]));
  return days.filter(({ date, status }) => {
    const found = known.get(date);
    if (!found || found.imported) return false;
    return !found.current || (found.cache_status === 'partial' && status === 'complete');
  });
}

/** Day snapshots, in `daily_usage_cache`. */
export function createDaysStore(dataSource: DataSource): DaysStore {
  return {
    rebuild: (days, { onlyStale }) =>
      dataSource.transaction(async ({ queryRunner }) => {
        const executor = queryRunner as Executor;
        await executor.query(sql('lock-days'), [LOCKS.dayDocument, days.map((day) => day.date)]);
        await executor.query(`set local work_mem = '64MB'`);
        const wanted = onlyStale ? await staleOf(executor, days) : days;
        const dates = wanted.map((day) => day.date);
        // Before the sums are read: what is counted meanwhile makes the snapshot stale.
        const versions = await runSql(executor, 'day-versions', [dates], VersionRow);
        await afterCommits(dataSource, executor);
        const values = [dates, wanted.map((day) => day.status), versions.map(({ changes }) => changes)];
        return (await runSql(executor, 'rebuild-days', values, z.object({ date: DateText }))).length;
      }),
    async importFlat(days) {
      const column = (name: keyof FlatDay) => days.map((day) => day[name]);
      const values = [column('date'), column('byUser'), column('byModel'), column('byProvider'), column('status')];
      await runSql(dataSource, 'import-days', values, z.unknown());
    },
    imported: (startDate, endDate) => runSql(dataSource, 'imported-days', [startDate, endDate], ImportedRow),
    async forgetImported(dates) {
      await dataSource.query(sql('forget-imported-days'), [dates]);
    },
    async status(startDate, endDate) {
      const rows = await runSql(dataSource, 'days-status', [startDate, endDate], StatusRow);
      return rows.map(({ date, cache_status, cached_at, ...state }) => ({
        date,
        status: cache_status,
        cachedAt: cached_at,
        ...state,
      }));
    },
    groups: (date) => runSql(dataSource, 'read-day', [date], GroupRow),
  };
}
