import { addDays, type Day, monthOf } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { afterCommits } from '../one-moment.ts';
import { runPrepared, runSql } from '../run-sql.ts';

type Scope = { merchantIds?: readonly string[] | undefined; startDate: Day; endDate: Day };

export type ChangesStore = {
  /**
   * Returns a text that changes whenever sums of these merchants and days, or names, change: each commit that counts
   * raises it, in whatever order commits arrive. Anything derived from days and names is valid while it stays the same.
   */
  versionOf(scope: Scope): Promise<string>;
  /** Raises the version of these merchants and days, like a change. */
  touch(scope: Scope & { merchantIds: readonly string[] }): Promise<number>;
  /** Raises every version. */
  touchAll(): Promise<void>;
};

const VersionRow = z.object({ version: z.string() });

/** Versions of sums, in `usage_changes` and `usage_platform_changes`, raised by the transactions that count. */
export function createChangesStore(dataSource: DataSource): ChangesStore {
  return {
    async versionOf({ merchantIds, startDate, endDate }) {
      const bounds = boundsOf(startDate, endDate);
      const [row] = merchantIds?.length
        ? await runPrepared(dataSource, 'changes-version', [...bounds, [...merchantIds, '']], VersionRow)
        : await runPrepared(dataSource, 'platform-version', bounds, VersionRow);
      await afterCommits(dataSource, dataSource);
      return row!.version;
    },
    async touch({ merchantIds, startDate, endDate }) {
      const values = [merchantIds, startDate, endDate];
      const rows = await runSql(dataSource, 'touch-changes', values, z.object({ grain: z.string() }));
      return rows.filter(({ grain }) => grain === 'day').length;
    },
    async touchAll() {
      await runSql(dataSource, 'touch-all-changes', [], z.unknown());
    },
  };
}

/** Returns the whole months of a range and the days before and after them, each as from and to; from > to: none. */
function boundsOf(startDate: Day, endDate: Day): Day[] {
  const [head, tail] = [monthOf(startDate), monthOf(endDate)];
  const first = head.startDate === startDate ? startDate : addDays(head.endDate, 1);
  const last = tail.endDate === endDate ? endDate : addDays(tail.startDate, -1);
  if (first > last) return [first, addDays(first, -1), startDate, endDate, startDate, addDays(startDate, -1)];
  return [first, last, startDate, addDays(first, -1), addDays(last, 1), endDate];
}
