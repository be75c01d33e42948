import { setTimeout as wait } from 'node:timers/promises';
import { type Day, eachDay, QUARTER_HOUR_MS, startOfDay, TallyError } from '@tally/contracts';
import type { DayVersion, Db, MerchantDay, MeterDrift } from '@tally/db';

type Report = { drift: MeterDrift[]; rows: number };
/** A day with its number of events. */
type Sized = DayVersion & { events: number };
type Range = { startDate: Day; endDate: Day };

export type MeterCheck = {
  /**
   * Compares the rollups of meters with the journal for these merchants and days; `everyMerchant`: also for merchants
   * that only rollups of meters have. Throws UNAVAILABLE once `isGone` returns that nobody waits for it.
   */
  check(
    scope: Range & { merchantIds: readonly string[] },
    options: { isGone: () => boolean; repair: boolean; everyMerchant: boolean },
  ): Promise<Report>;
  /**
   * Compares days that changed since they were last found correct, and rebuilds those that differ. A pass reads a
   * bounded number of rows; the next one continues.
   */
  repairChanged(range: Range, isGone: () => boolean): Promise<Report>;
};

/** Events compared under one lock, which corrections and derivations wait for. */
const EVENTS_AT_ONCE = 50_000;
const MERCHANTS_AT_ONCE = 200;
const QUARTER_HOURS = 96;
const PAGE_DAYS = 1_000;
/** Events and rows that one pass over changed days reads. */
const MAX_PASS = 2_000_000;

/** Compares what meters have counted with what they count. */
export function createMeterCheck(options: {
  db: Pick<Db, 'meters'>;
  /** The share of time in which comparisons work; otherwise they pause. */
  share: number;
  maxPass?: number;
}): MeterCheck {
  const { meters } = options.db;
  const { share, maxPass = MAX_PASS } = options;
  /** The next pass begins after this day, or with the rest of one that was too large for a pass. */
  let next: { after: MerchantDay; rest?: { day: Sized; slice: number; isRight: boolean } } | undefined;

  async function paused<T>(work: () => Promise<T>, isGone: () => boolean): Promise<T> {
    if (isGone()) throw new TallyError('UNAVAILABLE', 'Nobody waits for this comparison any more.');
    const started = performance.now();
    const done = await work();
    await wait((performance.now() - started) * (1 / share - 1));
    return done;
  }

  return {
    async check({ startDate, endDate, merchantIds }, { isGone, repair, everyMerchant }) {
      const report: Report = { drift: [], rows: 0 };
      const take = ({ drift, rows }: Report) => {
        report.drift.push(...drift);
        report.rows += rows;
      };
      if ((await meters.list()).length === 0) return report;
      const known = everyMerchant ? await meters.merchants() : [];
      const merchants = [...new Set([...merchantIds, ...known])].sort();
      for (let at = 0; at < merchants.length; at += MERCHANTS_AT_ONCE) {
        const some = merchants.slice(at, at + MERCHANTS_AT_ONCE);
        for (const date of eachDay(startDate, endDate)) {
          const events = await meters.dayEvents(some, date);
          const days = some.map((merchantId) => ({ merchantId, date, events: events.get(merchantId) ?? 0 }));
          for (const group of groupsOf(days)) {
            const ids = group.map(({ merchantId }) => merchantId);
            for (const within of slicesOf(date, group))
              take(await paused(() => meters.compareDay({ merchantIds: ids, date, within }, repair), isGone));
          }
        }
        take(await paused(() => meters.compareFolds({ merchantIds: some, startDate, endDate }, repair), isGone));
      }
      return report;
    },

    async repairChanged(range, isGone) {
      const report: Report = { drift: [], rows: 0 };
      let left = maxPass;
      const take = ({ drift, rows }: Report): boolean => {
        report.drift.push(...drift);
        report.rows += rows;
        left -= rows;
        return drift.length === 0;
      };

      /** Compares days of one date from a slice on; returns the slice to continue with if the pass ends early. */
      async function compare(days: readonly Sized[], slice: number, wasRight: boolean) {
        const { date } = days[0]!;
        const merchantIds = days.map(({ merchantId }) => merchantId);
        const slices = slicesOf(date, days);
        const events = days.reduce((sum, day) => sum + day.events, 0);
        const unclear = new Set<string>();
        let isRight = wasRight;
        for (let at = slice; at < slices.length; at++) {
          if (left <= 0) return { slice: at, isRight };
          left -= Math.ceil(events / slices.length);
          const day = { merchantIds, date, within: slices[at] };
          const compared = await paused(() => meters.compareDay(day, true), isGone);
          for (const { merchantId } of compared.drift) unclear.add(merchantId);
          for (const merchantId of compared.pending) unclear.add(merchantId);
          isRight = take(compared) && isRight;
        }
        const scope = { merchantIds, startDate: date, endDate: date };
        const folds = await paused(() => meters.compareFolds(scope, true), isGone);
        for (const { merchantId } of folds.drift) unclear.add(merchantId);
        take(folds);
        // A day that changed meanwhile has a later version, and is compared again by the next pass.
        if (isRight || days.length > 1) await meters.markChecked(days.filter((day) => !unclear.has(day.merchantId)));
        return undefined;
      }

      await meters.forgetChecked(range.startDate);
      let after: MerchantDay = next?.after ?? { date: range.startDate, merchantId: '' };
      const rest = next?.rest;
      next = undefined;
      if (rest && rest.day.date >= range.startDate) {
        const open = await compare([rest.day], rest.slice, rest.isRight);
        if (open) next = { after, rest: { day: rest.day, ...open } };
      }
      while (next === undefined) {
        const page = await meters.unchecked(range, after, PAGE_DAYS);
        for (const days of groupsOf(page)) {
          if (left <= 0) next = { after };
          if (next) break;
          const open = await compare(days, 0, true);
          after = days.at(-1)!;
          if (open) next = { after, rest: { day: days[0]!, ...open } };
        }
        if (page.length < PAGE_DAYS) break;
      }
      return report;
    },
  };
}

/** Days of one date that are compared under one lock; a large day is alone. */
function groupsOf<Day extends { date: string; events: number }>(days: readonly Day[]): Day[][] {
  const groups: Day[][] = [];
  let events = Number.POSITIVE_INFINITY;
  for (const day of days) {
    const group = groups.at(-1);
    events += day.events;
    if (group && group[0]!.date === day.date && group.length < MERCHANTS_AT_ONCE && events <= EVENTS_AT_ONCE)
      group.push(day);
    else {
      groups.push([day]);
      events = day.events;
    }
  }
  return groups;
}

/** The quarter hours of a day in parts of about EVENTS_AT_ONCE; one part without bounds if that is enough. */
function slicesOf(date: Day, days: readonly { events: number }[]): ({ from: string; until: string } | undefined)[] {
  const parts = Math.ceil(days.reduce((sum, day) => sum + day.events, 0) / EVENTS_AT_ONCE);
  if (parts <= 1) return [undefined];
  const length = Math.ceil(QUARTER_HOURS / Math.min(parts, QUARTER_HOURS));
  const at = (quarter: number) =>
    new Date(startOfDay(date) + Math.min(quarter, QUARTER_HOURS) * QUARTER_HOUR_MS).toISOString();
  return Array.from({ length: Math.ceil(QUARTER_HOURS / length) }, (_, part) => ({
    from: at(part * length),
    until: at((part + 1) * length),
  }));
}
