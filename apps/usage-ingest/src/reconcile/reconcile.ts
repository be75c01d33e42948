import { addDays, countDays, type Day, dayOf, eachDay, type Units } from '@tally/contracts';
import type { BookRow, Db, Executor, JournalLine, MerchantDay } from '@tally/db';
import type { Counters } from '../counters/counters.ts';
import { LIVE_DAYS } from '../counters/keys.ts';
import type { OldLayout } from '../counters/old-layout.ts';
import { identityOf } from '../line.ts';
import type { Pending } from '../pending.ts';
import type { Repair } from './repair.ts';

export type ReconcileOptions = {
  counters: Counters;
  oldLayout: Pick<OldLayout, 'sweep'>;
  pending: Pending;
  repair: Repair;
  db: Pick<Db, 'journal' | 'books' | 'cubes' | 'deadLetters'>;
  /** Flushes everything that waits. */
  drain(): Promise<unknown>;
  now: () => number;
};

/** A number that is not the same in every book; null where a book does not keep it. */
export type Drift = MerchantDay & {
  metricType: string;
  journal: Units;
  daily: Units | null;
  usage: Units;
  /** The total in Redis less what is not yet in Postgres; null outside of the days that Redis keeps. */
  live: Units | null;
  dailyModels: Units | null;
  quarterHours: Units | null;
  monthly: Units | null;
  yearly: Units | null;
  /** The derived rollup that is not the sum of what it is derived from; `merchantId` is '' where it has all merchants. */
  rollup?: string;
  /** The first book that differs, less the journal. */
  drift: Units;
  /** Entries that the difference can come from. */
  suspects: { id: string; why: string }[];
};

export type CheckReport = { balanced: boolean; drift: Drift[]; merchantsChecked: number; numbersChecked: number };

type Scope = { startDate: Day; endDate: Day; merchantIds?: readonly string[] | undefined };

export type Reconcile = {
  /** Compares all books of merchants and days, entry by entry where they differ. Live traffic makes no drift. */
  check(scope: Scope): Promise<CheckReport>;
  /** Makes what is summed of merchants and days anew from the journal. */
  rebuild(scope: Scope): Promise<{ merchants: number; days: number; closedDays: number; durationMs: number }>;
  /** Sets the totals of Redis right from Postgres where they are known to be behind; returns how many days it set. */
  settle(): Promise<number>;
  /** Compares the last days of all merchants, and sets the totals of Redis right where they differ. */
  repair(): Promise<CheckReport & { repaired: number }>;
};

const MAX_SUSPECTS = 20;
const SETTLED_AT_ONCE = 1_000;

/**
 * The two books: totals that Redis counted and the journal that Postgres keeps, made by different means from the same
 * acceptance. They are compared while the merchant's flush lock is held, so nothing moves from one to the other.
 */
export function createReconcile({ counters, oldLayout, pending, repair, db, drain, now }: ReconcileOptions): Reconcile {
  const { shardOf } = counters.keys;
  const isLive = (date: Day) => date >= addDays(dayOf(now()), -LIVE_DAYS) && date <= addDays(dayOf(now()), 1);

  async function checkMerchant(
    merchantId: string,
    startDate: Day,
    endDate: Day,
  ): Promise<{ drift: Drift[]; numbers: number }> {
    return db.journal.exclusively([merchantId], async (transaction) => {
      const rows = await db.books.read({ merchantIds: [merchantId], startDate, endDate }, transaction);
      const dates = eachDay(startDate, endDate);
      const live = dates.filter(isLive).map((date) => ({
        merchantId,
        date,
        metricTypes: rows.filter((row) => row.date === date).map((row) => row.metricType),
      }));
      const compared = live.length === 0 ? [] : await pending.compare(shardOf(merchantId), live, transaction);
      const drift: Drift[] = [];
      let numbers = rows.length;
      for (const row of rows) if (!isLive(row.date)) drift.push(...driftOf(row, null));
      for (const { date, totals, outstanding, waiting } of compared) {
        const byType = new Map(rows.filter((row) => row.date === date).map((row) => [row.metricType, row]));
        const before = drift.length;
        for (const type of new Set([...byType.keys(), ...totals.keys()])) {
          const live = (totals.get(type) ?? 0n) - (outstanding.get(type) ?? 0n);
          if (!byType.has(type)) numbers++;
          drift.push(...driftOf(byType.get(type) ?? emptyRow(merchantId, date, type), live));
        }
        if (drift.length > before) {
          const suspects = await suspectsOf(merchantId, date, waiting, transaction);
          for (const each of drift.slice(before)) each.suspects = suspects;
        }
      }
      return { drift, numbers };
    });
  }

  async function suspectsOf(merchantId: string, date: Day, waiting: readonly JournalLine[], transaction: Executor) {
    const ids = await counters.knownIds(merchantId, date);
    const identities = ids.flatMap(({ id, dates }) => dates.map((each) => ({ date: each, id })));
    const known = await db.books.known(merchantId, identities, transaction);
    const outstanding = new Set(waiting.map(identityOf));
    const missing = ids.filter(({ id, dates }) =>
      dates.every((each) => !known.has(`${each} ${id}`) && !outstanding.has(`${each} ${id}`)),
    );
    const refused = await db.deadLetters.among(
      { merchantId, date },
      missing.map(({ id }) => id),
      transaction,
    );
    const lost = missing.filter(({ id }) => !refused.has(id));
    const found = await db.books.suspects(merchantId, date, MAX_SUSPECTS, transaction);
    return [...lost.map(({ id }) => ({ id, why: 'acknowledged, but not in the journal' })), ...found].slice(
      0,
      MAX_SUSPECTS,
    );
  }

  async function merchantsOf({ startDate, endDate, merchantIds }: Scope): Promise<string[]> {
    if (merchantIds?.length) return [...new Set(merchantIds)];
    const [counted, pending] = [await db.books.merchants(startDate, endDate), await counters.waitingMerchants()];
    return [...new Set([...counted, ...pending])].sort();
  }

  const check: Reconcile['check'] = async ({ startDate, endDate, merchantIds }) => {
    await settle();
    const merchants = await merchantsOf({ startDate, endDate, merchantIds });
    const drift: Drift[] = [];
    let numbersChecked = 0;
    for (const merchantId of merchants) {
      const checked = await checkMerchant(merchantId, startDate, endDate);
      drift.push(...checked.drift);
      numbersChecked += checked.numbers;
    }
    // Without a list, rollups of all merchants are compared, too.
    const scope = { merchantIds: merchantIds?.length ? merchants : undefined, startDate, endDate };
    for (const { parts, whole, ...row } of await db.books.periodsApart(scope)) {
      const sums = { journal: parts, daily: row.rollup === 'usage_monthly' ? parts : null, usage: parts };
      const period = {
        monthly: row.rollup === 'usage_monthly' ? whole : null,
        yearly: row.rollup === 'usage_yearly' ? whole : null,
      };
      const none = { live: null, dailyModels: null, quarterHours: null, suspects: [] };
      drift.push({ ...row, ...sums, ...period, ...none, drift: whole - parts });
    }
    return { balanced: drift.length === 0, drift, merchantsChecked: merchants.length, numbersChecked };
  };

  async function settle(): Promise<number> {
    let settled = 0;
    for (let days = await db.books.staleTotals(SETTLED_AT_ONCE); days.length > 0; ) {
      for (const day of days) {
        await repair.days([day]);
        settled++;
      }
      if (days.length < SETTLED_AT_ONCE) break;
      days = await db.books.staleTotals(SETTLED_AT_ONCE);
    }
    return settled;
  }

  return {
    check,
    settle,
    async rebuild(scope) {
      const started = performance.now();
      const merchants = await merchantsOf(scope);
      let closedDays = 0;
      for (const merchantId of merchants)
        closedDays += (await db.cubes.rebuild(merchantId, scope.startDate, scope.endDate)).closedDays;
      if (!scope.merchantIds?.length) await db.cubes.rebuildPlatform(scope.startDate, scope.endDate);
      const days = merchants.length * countDays(scope.startDate, scope.endDate);
      return { merchants: merchants.length, days, closedDays, durationMs: Math.round(performance.now() - started) };
    },
    async repair() {
      const endDate = addDays(dayOf(now()), 1);
      const startDate = addDays(dayOf(now()), -LIVE_DAYS);
      await oldLayout.sweep();
      await drain();
      const report = await check({ startDate, endDate });
      const days = new Map(
        report.drift
          .filter((each) => each.live !== null && each.live !== each.usage)
          .map(({ merchantId, date }) => [`${merchantId}\n${date}`, { merchantId, date }]),
      );
      await repair.days([...days.values()]);
      await repair.afterRestart();
      return { ...report, repaired: days.size };
    },
  };
}

function driftOf({ daily, dailyModels, quarterHours, ...row }: BookRow, live: Units | null): Drift[] {
  const books = [daily, row.usage, live, dailyModels, quarterHours];
  const apart = books.find((book) => book !== null && book !== row.journal);
  if (apart === undefined || apart === null) return [];
  const periods = { monthly: null, yearly: null };
  return [{ ...row, daily, live, dailyModels, quarterHours, ...periods, drift: apart - row.journal, suspects: [] }];
}

function emptyRow(merchantId: string, date: Day, metricType: string): BookRow {
  const none = { journal: 0n, usage: 0n, daily: null, dailyModels: null, quarterHours: null };
  return { merchantId, date, metricType, ...none };
}
