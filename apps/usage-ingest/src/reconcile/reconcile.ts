import { addDays, countDays, type Day, dayOf, eachDay, type Units } from '@tally/contracts';
import type { BookRow, Db, Executor, JournalLine, MerchantDay } from '@tally/db';
import type { Counters, Snapshot } from '../counters/counters.ts';
import { LIVE_DAYS } from '../counters/keys.ts';
import type { FaultPoint } from '../faults.ts';
import { amountsOf, identityOf } from '../line.ts';

export type ReconcileOptions = {
  counters: Counters;
  db: Pick<Db, 'journal' | 'books' | 'cubes' | 'deadLetters'>;
  drain(merchantIds: readonly string[]): Promise<unknown>;
  now: () => number;
  fault: FaultPoint;
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
/** A total that changes while it is computed is computed again; traffic leaves gaps of milliseconds. */
const SET_ATTEMPTS = 50;

/**
 * The two books: totals that Redis counted and the journal that Postgres keeps, made by different means from the same
 * acceptance. They are compared while the merchant's flush lock is held, so nothing moves from one to the other.
 */
export function createReconcile({ counters, db, drain, now, fault }: ReconcileOptions): Reconcile {
  const isLive = (date: Day) => date >= addDays(dayOf(now()), -LIVE_DAYS) && date <= addDays(dayOf(now()), 1);

  /** The totals that Redis must have by what Postgres has: its sums, and what was accepted but is not in it. */
  async function liveBooks(merchantId: string, date: Day, rows: readonly BookRow[], transaction: Executor) {
    const counted = new Map(rows.map((row) => [row.metricType, row.usage]));
    const snapshot = await counters.snapshot(merchantId, date, [...counted.keys()]);
    const waiting = await notYetCounted(merchantId, date, linesOf(snapshot), transaction);
    const outstanding = sumOf(waiting);
    const inStream = waiting.map((line) => line.id);
    for (const [type, units] of await db.deadLetters.waiting({ merchantId, date }, inStream, transaction))
      outstanding.set(type, (outstanding.get(type) ?? 0n) + units);
    const right = new Map<string, Units>();
    for (const type of new Set([...counted.keys(), ...snapshot.totals.keys(), ...outstanding.keys()])) {
      right.set(type, (counted.get(type) ?? 0n) + (outstanding.get(type) ?? 0n));
    }
    return { snapshot, right, outstanding, waiting };
  }

  /** Of the lines in the stream, those the journal lacks: a flushed item may still be there. */
  async function notYetCounted(
    merchantId: string,
    date: Day,
    lines: readonly JournalLine[],
    transaction: Executor,
  ): Promise<JournalLine[]> {
    const waiting = new Map<string, JournalLine>();
    for (const line of lines) {
      if (line.date === date && !waiting.has(identityOf(line))) waiting.set(identityOf(line), line);
    }
    const known = await db.books.known(merchantId, [...waiting.values()], transaction);
    return [...waiting].filter(([identity]) => !known.has(identity)).map(([, line]) => line);
  }

  async function checkMerchant(
    merchantId: string,
    startDate: Day,
    endDate: Day,
  ): Promise<{ drift: Drift[]; numbers: number }> {
    return db.journal.exclusively([merchantId], { wait: true }, async ({ transaction }) => {
      const rows = await db.books.read({ merchantIds: [merchantId], startDate, endDate }, transaction);
      const drift: Drift[] = [];
      let numbers = rows.length;
      for (const date of eachDay(startDate, endDate)) {
        const ofDay = rows.filter((row) => row.date === date);
        if (!isLive(date)) {
          drift.push(...ofDay.flatMap((row) => driftOf(row, null)));
          continue;
        }
        const { snapshot, outstanding, waiting } = await liveBooks(merchantId, date, ofDay, transaction);
        const byType = new Map(ofDay.map((row) => [row.metricType, row]));
        for (const type of new Set([...byType.keys(), ...snapshot.totals.keys()])) {
          const live = (snapshot.totals.get(type) ?? 0n) - (outstanding.get(type) ?? 0n);
          if (!byType.has(type)) numbers++;
          drift.push(...driftOf(byType.get(type) ?? emptyRow(merchantId, date, type), live));
        }
        const apart = drift.filter((each) => each.date === date);
        if (apart.length > 0) {
          const suspects = await suspectsOf(merchantId, date, waiting, transaction);
          for (const each of apart) each.suspects = suspects;
        }
      }
      return { drift, numbers };
    });
  }

  async function suspectsOf(merchantId: string, date: Day, waiting: readonly JournalLine[], transaction: Executor) {
    const ids = (await counters.seenIds(merchantId, date, now())).map((identity) => ({ date, id: identity.slice(11) }));
    const known = await db.books.known(merchantId, ids, transaction);
    const outstanding = new Set(waiting.map(identityOf));
    const missing = ids.filter(({ id }) => !known.has(`${date} ${id}`) && !outstanding.has(`${date} ${id}`));
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

  async function setRight({ merchantId, date }: MerchantDay): Promise<void> {
    if (!isLive(date)) return;
    await db.journal.exclusively([merchantId], { wait: true }, async ({ transaction }) => {
      const rows = await db.books.read({ merchantIds: [merchantId], startDate: date, endDate: date }, transaction);
      for (let attempt = 0; attempt < SET_ATTEMPTS; attempt++) {
        const { snapshot, right } = await liveBooks(merchantId, date, rows, transaction);
        const wrong = new Map([...right].filter(([type, units]) => (snapshot.totals.get(type) ?? 0n) !== units));
        await fault('reconcile.before-set');
        if (wrong.size === 0 || (await counters.setTotals(merchantId, date, snapshot.totals, wrong))) return;
      }
      throw new Error(`the totals of ${merchantId} on ${date} changed all the time`);
    });
  }

  async function merchantsOf({ startDate, endDate, merchantIds }: Scope): Promise<string[]> {
    if (merchantIds?.length) return [...new Set(merchantIds)];
    const [counted, pending] = [await db.books.merchants(startDate, endDate), await counters.pendingMerchants()];
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
    const scope = { merchantIds: merchants, startDate, endDate };
    for (const { grain, parts, whole, ...row } of await db.books.periodsApart(scope)) {
      const sums = { journal: parts, daily: grain === 'month' ? parts : null, usage: parts };
      const period = { monthly: grain === 'month' ? whole : parts, yearly: grain === 'year' ? whole : null };
      const none = { live: null, dailyModels: null, quarterHours: null, suspects: [] };
      drift.push({ ...row, ...sums, ...period, ...none, drift: whole - parts });
    }
    return { balanced: drift.length === 0, drift, merchantsChecked: merchants.length, numbersChecked };
  };

  async function settle(): Promise<number> {
    let settled = 0;
    for (let days = await db.books.staleTotals(SETTLED_AT_ONCE); days.length > 0; ) {
      for (const day of days) {
        const before = await db.books.now();
        await setRight(day);
        await db.books.settled(day, before);
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
      const days = merchants.length * countDays(scope.startDate, scope.endDate);
      return { merchants: merchants.length, days, closedDays, durationMs: Math.round(performance.now() - started) };
    },
    async repair() {
      const endDate = addDays(dayOf(now()), 1);
      const startDate = addDays(dayOf(now()), -LIVE_DAYS);
      await counters.sweep();
      const pending = await counters.pendingMerchants();
      if (pending.length > 0) await drain(pending);
      const report = await check({ startDate, endDate });
      const days = new Map(
        report.drift
          .filter((each) => each.live !== null && each.live !== each.usage)
          .map(({ merchantId, date }) => [`${merchantId} ${date}`, { merchantId, date }]),
      );
      for (const day of days.values()) await setRight(day);
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

const linesOf = ({ items }: Snapshot) => items.flatMap((item) => JSON.parse(item.lines) as JournalLine[]);

function sumOf(lines: readonly JournalLine[]): Map<string, Units> {
  const sums = new Map<string, Units>();
  for (const line of lines) {
    for (const [type, units] of amountsOf(line)) sums.set(type, (sums.get(type) ?? 0n) + units);
  }
  return sums;
}
