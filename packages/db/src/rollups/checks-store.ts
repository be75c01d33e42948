import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, type MerchantDay } from '../rows.ts';
import { runSql, sql } from '../run-sql.ts';

/** A merchant's day with its version when it was read. */
export type DayVersion = MerchantDay & { changes: string };

/** Numbers that differed: how many, and where some of them are. */
export type Drifted = { numbers: number; examples: { merchantId: string; date: Day; what: string }[] };

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
  /** Notes on the UTC day of `at` that numbers differed; the largest number of a day stays. */
  noteDrift(at: Date, found: Drifted): Promise<void>;
  /** Returns what reconciliations found on a UTC day; undefined where they found nothing. */
  driftOn(day: Day): Promise<Drifted | undefined>;
};

const Row = z
  .object({ merchant_id: z.string(), date: DateText, changes: z.string() })
  .transform(({ merchant_id, ...row }) => ({ ...row, merchantId: merchant_id }));

const DriftRow = z.object({
  numbers: z.string().transform(Number),
  examples: z.array(z.object({ merchantId: z.string(), date: DateText, what: z.string() })),
});

/** Records of reconciliation: days found correct in `usage_checks`, drift in `drift_days`. */
export function createChecksStore(dataSource: DataSource): ChecksStore {
  return {
    unchecked: ({ startDate, endDate }, after, limit) =>
      runSql(dataSource, 'unchecked-days', [startDate, endDate, after.date, after.merchantId, limit], Row),
    async mark(days) {
      const values = [days.map((day) => day.date), days.map((day) => day.merchantId), days.map((day) => day.changes)];
      await runSql(dataSource, 'mark-checked', values, z.unknown());
    },
    async noteDrift(at, { numbers, examples }) {
      await runSql(dataSource, 'note-drift', [at, numbers, JSON.stringify(examples)], z.unknown());
    },
    async driftOn(day) {
      const [row] = await runSql(dataSource, 'drift-on', [day], DriftRow);
      return row;
    },
    async forget(before) {
      await dataSource.query(sql('forget-checks'), [before]);
    },
  };
}
