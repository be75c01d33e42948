import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText } from './rows.ts';
import { runSql, sql } from './run-sql.ts';
import { inTransaction } from './transactions.ts';

export type Derived = { flushes: number; events: number };

export type DerivationsStore = {
  /**
   * Adds the oldest flushes that are still to be derived to the coarse rollups, in one transaction: as many as have
   * `maxEvents` events, at least one. Flushes that another process derives are left to it. Returns how much it derived.
   */
  derive(maxEvents: number): Promise<Derived>;
  /** What is still to be derived, and the age of the oldest of it. Readers add it up for themselves: see usage-store. */
  lag(): Promise<Derived & { oldestMs: number }>;
  /** Removes records of flushes that no event of the journal refers to, at most `limit`; returns how many. */
  prune(limit: number): Promise<number>;
};

/** A slice also bounds how many flushes are locked, and looked for one by one. */
const MAX_FLUSHES = 200;

const FlushRow = z.object({
  id: z.string(),
  inserted: z.string().transform(Number),
  first_date: DateText,
  last_date: DateText,
});
const LagRow = z.object({ flushes: z.number(), events: z.string().transform(Number), oldest_ms: z.number() });
const RemovedRow = z.object({ removed: z.string().transform(Number) });

/** Coarse rollups (models, months, years, all merchants), derived from flushes in the background. */
export function createDerivationsStore(dataSource: DataSource): DerivationsStore {
  return {
    derive: (maxEvents) =>
      inTransaction(dataSource, async (transaction) => {
        const flushes = await runSql(transaction, 'take-flushes', [maxEvents, MAX_FLUSHES], FlushRow);
        if (flushes.length === 0) return { flushes: 0, events: 0 };
        const ids = flushes.map(({ id }) => id);
        const dates = flushes.flatMap((flush) => [flush.first_date, flush.last_date]).sort();
        const [first, last] = [dates[0], dates.at(-1)];
        await transaction.query(sql(first === last ? 'derive-day' : 'derive'), [ids, first, last]);
        await transaction.query(sql('derived-flushes'), [ids]);
        return { flushes: flushes.length, events: flushes.reduce((sum, { inserted }) => sum + inserted, 0) };
      }),

    async lag() {
      const [row] = await runSql(dataSource, 'derivation-lag', [], LagRow);
      return { flushes: row!.flushes, events: row!.events, oldestMs: row!.oldest_ms };
    },

    async prune(limit) {
      const [row] = await runSql(dataSource, 'prune-flushes', [limit], RemovedRow);
      return row!.removed;
    },
  };
}
