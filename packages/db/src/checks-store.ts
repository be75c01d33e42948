import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { MerchantDay } from './journal-store.ts';
import { DateText } from './rows.ts';
import { runSql, sql } from './run-sql.ts';

/** A merchant's day with its version when it was read. */
export type DayVersion = MerchantDay & { changes: string };

export type ChecksStore = {
  /**
   * Returns the next days of the range, by date and merchant after `after`, that changed since they were last found
   * correct; at most `limit`.
   */
  unchecked(range: { startDate: Day; endDate: Day }, after: MerchantDay, limit: number): Promise<DayVersion[]>;
  /** Records that these versions of days were found correct. */
  mark(days: readonly DayVersion[]): Promise<void>;
  /** Deletes the records of days before this one. */
  forget(before: Day): Promise<void>;
};

const Row = z
  .object({ merchant_id: z.string(), date: DateText, changes: z.string() })
  .transform(({ merchant_id, ...row }) => ({ ...row, merchantId: merchant_id }));

/** Records of reconciliation: days found correct, in `usage_checks`. */
export function createChecksStore(dataSource: DataSource): ChecksStore {
  return {
    unchecked: ({ startDate, endDate }, after, limit) =>
      runSql(dataSource, 'unchecked-days', [startDate, endDate, after.date, after.merchantId, limit], Row),
    async mark(days) {
      const values = [days.map((day) => day.date), days.map((day) => day.merchantId), days.map((day) => day.changes)];
      await runSql(dataSource, 'mark-checked', values, z.unknown());
    },
    async forget(before) {
      await dataSource.query(sql('forget-checks'), [before]);
    },
  };
}
