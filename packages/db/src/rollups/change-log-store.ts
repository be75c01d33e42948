import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { afterCommits } from '../one-moment.ts';
import { DateText, type MerchantDay, Moment } from '../rows.ts';
import { runSql } from '../run-sql.ts';

/**
 * The position of a reader of changes: in the initial list of all merchants' days, with the position in the log to
 * continue from; or in the log, within one of its rows.
 */
export type ChangePlace =
  | { kind: 'all'; xact: string; id: string; position: number; merchantId: string; date: Day }
  | { kind: 'log'; xact: string; id: string; position: number };

/** `changedAt` null: before the reader began to follow the changes. */
export type Change = MerchantDay & { changedAt: string | null };

export type ChangeLogStore = {
  /**
   * Returns merchants' days whose numbers changed after `place`, each once, and the position to continue from. Without
   * a position, and for a pruned one, starts with every merchant's day. A reader who reads the numbers of all returned
   * days has those of every committed transaction: the position never passes one that may still commit. `hasMore` is
   * false once everything known so far was returned.
   */
  after(
    place: ChangePlace | undefined,
    page: { limit: number; merchantIds?: readonly string[] | undefined },
  ): Promise<{ rows: Change[]; next: ChangePlace; hasMore: boolean }>;
  /** Removes rows from before a moment. */
  prune(before: Date): Promise<void>;
  /** Empties the log: after a restore, transactions may count from a lower number again. */
  restart(): Promise<void>;
};

/** Merchants' days of the log read per call, in case most of them are not the reader's. */
const SCANNED = 10_000;
const PRUNED_AT_ONCE = 10_000;
const NO_DAY = '-infinity';

const Xact = z.string().regex(/^\d+$/);
const LogRow = z.object({
  is_kept: z.boolean(),
  last_xact: Xact,
  last_id: z.string(),
  last_position: z.number(),
  xact: Xact.nullable(),
  id: z.string().nullable(),
  position: z.string().transform(Number).nullable(),
  merchant_id: z.string().nullable(),
  date: DateText.nullable(),
  at: Moment.nullable(),
});
const DayRow = z.object({ merchant_id: z.string(), date: DateText });

/** The log of changed merchants' days, in `usage_change_log`, written by the transactions that change them. */
export function createChangeLogStore(dataSource: DataSource): ChangeLogStore {
  const logAfter = (xact: string, id: string, position: number, limit: number) =>
    runSql(dataSource, 'changes-since', [xact, id, position, limit], LogRow);

  async function listed(place: ChangePlace & { kind: 'all' }, limit: number, merchantIds: readonly string[] | null) {
    const values = [merchantIds, place.merchantId, place.date, limit];
    const found = await runSql(dataSource, 'merchant-days', values, DayRow);
    const rows = found.map((row): Change => ({ merchantId: row.merchant_id, date: row.date, changedAt: null }));
    const last = rows.length === limit ? rows.at(-1) : undefined;
    const next: ChangePlace = last
      ? { ...place, merchantId: last.merchantId, date: last.date }
      : { kind: 'log', xact: place.xact, id: place.id, position: place.position };
    return { rows, next, hasMore: true };
  }

  return {
    async after(place, { limit, merchantIds }) {
      const merchants = merchantIds ?? null;
      if (place?.kind === 'all') return listed(place, limit, merchants);
      const scanned = merchants ? Math.max(limit, SCANNED) : limit;
      const { xact, id, position } = place ?? { xact: '0', id: '0', position: 0 };
      const found = await logAfter(xact, id, position, place ? scanned : 0);
      await afterCommits(dataSource, dataSource);
      const { is_kept: isKept, last_xact, last_id, last_position } = found[0]!;
      // Earlier commits are in the list, later ones in the log from here on.
      if (!place || !isKept) {
        const start = { xact: last_xact, id: last_id, position: last_position };
        return listed({ kind: 'all', ...start, merchantId: '', date: NO_DAY }, limit, merchants);
      }

      const days = new Map<string, Change>();
      // Always a committed row: numbers of other transactions are given again after a crash of Postgres.
      let next: ChangePlace = place;
      for (const row of found) {
        if (row.xact === null) continue;
        next = { kind: 'log', xact: row.xact, id: row.id!, position: row.position! };
        const change = { merchantId: row.merchant_id!, date: row.date!, changedAt: row.at };
        if (!merchants || merchants.includes(change.merchantId))
          days.set(`${change.date} ${change.merchantId}`, change);
        if (days.size === limit) break;
      }
      const rows = [...days.values()];
      return { rows, next, hasMore: next !== place && (found.length === scanned || days.size === limit) };
    },

    async prune(before) {
      for (;;) {
        const values = [before, PRUNED_AT_ONCE];
        const [row] = await runSql(dataSource, 'prune-change-log', values, z.object({ removed: z.number() }));
        if (row!.removed < PRUNED_AT_ONCE - 1) return;
      }
    },

    async restart() {
      await runSql(dataSource, 'restart-change-log', [], z.unknown());
    },
  };
}
