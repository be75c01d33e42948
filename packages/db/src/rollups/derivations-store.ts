import { addDays, type Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { afterCommits, betweenMoments, stopCommits } from '../one-moment.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { inTransaction } from '../transactions.ts';
import { holdRolledUp, lockRolledUp } from './rolled-up.ts';
import { min } from './scope.ts';

export type Derived = { flushes: number; events: number };

export type DerivationsStore = {
  /**
   * Adds the oldest flushes not yet derived to the coarse rollups of days, in one transaction: up to `maxEvents`
   * events, but at least one flush. Adds events of rolled-up days to months and years, too. Skips flushes that another
   * process derives. Returns what it derived.
   */
  derive(maxEvents: number): Promise<Derived & { ids: string[] }>;
  /**
   * Adds the oldest open day before `before` to the rollups of months and years, in one transaction: merchants with up
   * to `maxRows` rows, but at least one. Returns false if every day before `before` is rolled up.
   */
  rollUp(before: Day, maxRows: number): Promise<boolean>;
  /**
   * Computes the oldest quarter of a month that is not complete and whose days are all rolled up, in one transaction:
   * merchants with up to `maxRows` rows of days, but at least one. Returns false if there is no such quarter.
   */
  computeQuarters(maxRows: number): Promise<boolean>;
  /**
   * Returns what is not derived yet, the age of its oldest flush, and the first day that is not completely rolled up.
   * Readers add what is missing themselves: see scope.ts.
   */
  lag(): Promise<Derived & { oldestMs: number; firstOpenDay: Day }>;
  /** Removes records of flushes that no event of the journal refers to, at most `limit`; returns how many. */
  prune(limit: number): Promise<number>;
};

/** Also limits the flushes of a slice, which are locked and looked up one by one. */
const MAX_FLUSHES = 200;

/** Also limits the merchants in a slice of a rolled-up day. */
const MAX_MERCHANTS = 1_000;

const FlushRow = z.object({
  id: z.string(),
  inserted: z.string().transform(Number),
  first_date: DateText,
  last_date: DateText,
});
const LagRow = z.object({
  flushes: z.number(),
  events: z.string().transform(Number),
  oldest_ms: z.number(),
  first_open_day: DateText,
});
const NextRow = z.object({ date: DateText, merchants: z.array(z.string()) });
const QuarterRow = z.object({ period: DateText, next: DateText, merchants: z.array(z.string()) });
const RemovedRow = z.object({ removed: z.string().transform(Number) });

/** Coarse rollups, derived in the background: those of days from flushes, those of months and years from days. */
export function createDerivationsStore(dataSource: DataSource): DerivationsStore {
  return {
    derive: (maxEvents) =>
      inTransaction(dataSource, async (transaction) => {
        const rolledUp = await holdRolledUp(transaction);
        const flushes = await runSql(transaction, 'take-flushes', [maxEvents, MAX_FLUSHES], FlushRow);
        if (flushes.length === 0) return { flushes: 0, events: 0, ids: [] };
        await afterCommits(dataSource, transaction);
        const ids = flushes.map(({ id }) => id);
        const dates = flushes.flatMap((flush) => [flush.first_date, flush.last_date]).sort();
        const [first, last] = [dates[0]!, dates.at(-1)!];
        await transaction.query(sql('derive'), [ids, first, last]);
        if (first <= rolledUp.date)
          await transaction.query(sql('derive-periods'), [ids, first, min(last, rolledUp.date)]);
        await transaction.query(sql('derived-flushes'), [ids]);
        await betweenMoments(dataSource, transaction);
        const events = flushes.reduce((sum, { inserted }) => sum + inserted, 0);
        return { flushes: flushes.length, events, ids };
      }),

    rollUp: (before, maxRows) =>
      inTransaction(dataSource, async (transaction) => {
        await lockRolledUp(transaction);
        const [next] = await runSql(transaction, 'next-to-roll-up', [before, MAX_MERCHANTS, maxRows], NextRow);
        if (!next) {
          await transaction.query(sql('set-rolled-up'), [before, '']);
          return false;
        }
        const { date, merchants } = next;
        await stopCommits(dataSource, transaction);
        if (merchants.length > 0) {
          await transaction.query(sql('roll-up'), [date, merchants]);
          await transaction.query(sql('set-rolled-up'), [date, merchants.at(-1)]);
        } else {
          await transaction.query(sql('roll-up-platform'), [date]);
          await transaction.query(sql('set-rolled-up'), [addDays(date, 1), '']);
        }
        return true;
      }),

    async computeQuarters(maxRows) {
      const take = (executor: Executor) => runSql(executor, 'next-quarter-month', [MAX_MERCHANTS, maxRows], QuarterRow);
      // Most of the time there is none, and the lock would make others wait.
      if ((await take(dataSource)).length === 0) return false;
      return inTransaction(dataSource, async (transaction) => {
        await lockRolledUp(transaction);
        const [quarter] = await take(transaction);
        if (!quarter) return false;
        const { period, next, merchants } = quarter;
        await stopCommits(dataSource, transaction);
        if (merchants.length > 0) await transaction.query(sql('build-quarter-months'), [period, merchants]);
        const reached = merchants.length > 0 ? [period, merchants.at(-1)] : [next, ''];
        await transaction.query(sql('set-quarter-months'), reached);
        return true;
      });
    },

    async lag() {
      const [row] = await runSql(dataSource, 'derivation-lag', [], LagRow);
      const { flushes, events, oldest_ms: oldestMs, first_open_day: firstOpenDay } = row!;
      return { flushes, events, oldestMs, firstOpenDay };
    },

    async prune(limit) {
      const [row] = await runSql(dataSource, 'prune-flushes', [limit], RemovedRow);
      return row!.removed;
    },
  };
}
