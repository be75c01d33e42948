import { type Day, TallyError, type Units } from '@tally/contracts';
import type { Db, Executor, JournalLine, LineToAppend, MerchantDay } from '@tally/db';
import { groupBy } from '@tally/service';
import type { Counters, DaysRead, JournalItem } from './counters/counters.ts';
import type { OldLayout } from './counters/old-layout.ts';
import { eachAmount } from './line.ts';

/**
 * What Redis has accepted and Postgres has not counted. Running total = sums in Postgres + all lines in the stream,
 * except lines whose journal row has their own origin: those are counted, and only not removed yet. A repeat is pending
 * until it is removed, since its total includes it.
 */
export type Pending = {
  /** Returns the pending lines of merchants of one shard; reads at most about `limit` lines of the shard. */
  lines(shard: number, merchantIds: readonly string[], limit: number): Promise<{ lines: LineToAppend[]; all: boolean }>;
  /** Returns the newest pending lines of a merchant, among about the newest `limit` lines of its shard. */
  newest(shard: number, merchantId: string, limit: number): Promise<LineToAppend[]>;
  /** Returns those of these lines that Postgres has not counted themselves. */
  notCounted(lines: readonly LineToAppend[], transaction?: Executor): Promise<LineToAppend[]>;
  /**
   * Returns the totals of some days of one shard, with everything pending at that moment. Nothing of these merchants
   * may be counted meanwhile: hold their locks in `transaction`. Throws UNAVAILABLE if more than `MAX_WAITING` events
   * wait in the shard, or a repeat is subtracted during every attempt.
   */
  compare(
    shard: number,
    days: readonly (MerchantDay & { metricTypes: readonly string[] })[],
    transaction: Executor,
  ): Promise<DayCompared[]>;
};

export type DayCompared = MerchantDay & {
  trusted: boolean;
  /** Totals in Redis; absent if missing. */
  totals: ReadonlyMap<string, Units>;
  /** What the totals include and Postgres does not. */
  outstanding: ReadonlyMap<string, Units>;
  waiting: readonly LineToAppend[];
};

const PAGE = { events: 1_000, bytes: 4 * 1024 * 1024 };
/** Items per read, newest first, each of at most 1,000 events and 1 MiB. */
const NEWEST_ITEMS = 5;
/** The limit of events of one shard read for a comparison; with more, the flush is behind and must catch up first. */
const MAX_WAITING = 100_000;
/** Reading is repeated if a repeat was subtracted meanwhile; that takes milliseconds, so few attempts are enough. */
const ATTEMPTS = 50;

export function createPending(options: {
  counters: Counters;
  oldLayout: Pick<OldLayout, 'waiting'>;
  db: Pick<Db, 'storedForms' | 'deadLetters'>;
}): Pending {
  const { counters, oldLayout, db } = options;

  async function read(shard: number, merchantIds: readonly string[], until: string | null, limit: number) {
    const wanted = new Set(merchantIds);
    const lines: LineToAppend[] = [];
    let [after, events]: [string | null, number] = [null, 0];
    while (until !== null && events < limit) {
      const items: JournalItem[] = await counters.oldestItems(shard, { after, until }, PAGE);
      for (const item of items) {
        events += item.count;
        for (const line of linesOf(item)) if (wanted.has(line.merchant_id)) lines.push(line);
      }
      const last = items.at(-1)?.streamId;
      if (last === undefined || last === until) return { lines, all: true };
      after = last;
    }
    return { lines, all: until === null };
  }

  const notCounted: Pending['notCounted'] = async (lines, transaction) => {
    const counted = await db.storedForms.counted(lines, transaction);
    return lines.filter((_, position) => !counted.has(position));
  };

  return {
    notCounted,

    async lines(shard, merchantIds, limit) {
      const [until] = await counters.newestItems([shard]);
      const found = await read(shard, merchantIds, until ?? null, limit);
      return { ...found, lines: [...found.lines, ...(await oldLayout.waiting(merchantIds))] };
    },

    async newest(shard, merchantId, limit) {
      const lines: LineToAppend[] = [];
      let [before, events]: [string | null, number] = [null, 0];
      while (events < limit) {
        const items: JournalItem[] = await counters.itemsBefore(shard, before, NEWEST_ITEMS);
        for (const item of items) {
          events += item.count;
          lines.push(...linesOf(item).filter((line) => line.merchant_id === merchantId));
        }
        before = items.at(-1)?.streamId ?? null;
        if (items.length < NEWEST_ITEMS) break;
      }
      return lines;
    },

    async compare(shard, days, transaction) {
      const merchantIds = [...new Set(days.map((day) => day.merchantId))];
      const { totals, lines } = await readAtOneMoment(merchantIds);
      const dates = days.map((day) => day.date).sort();
      const scope = { merchantIds, startDate: dates[0]!, endDate: dates.at(-1)! };
      const letters = new Map<string, Map<string, Units>>();
      for (const { metricType, units, ...day } of await db.deadLetters.waiting(scope, transaction)) {
        letters.set(nameOf(day), (letters.get(nameOf(day)) ?? new Map()).set(metricType, units));
      }
      const wanted = new Set(days.map(nameOf));
      const own = lines.filter((line) => wanted.has(nameOfLine(line)));
      const waiting = groupBy(await notCounted(own, transaction), nameOfLine);
      return days.map((day, index): DayCompared => {
        const ofDay = waiting.get(nameOf(day)) ?? [];
        const { merchantId, date } = day;
        const outstanding = sumOf(ofDay);
        for (const [type, units] of letters.get(nameOf(day)) ?? []) {
          outstanding.set(type, (outstanding.get(type) ?? 0n) + units);
        }
        return { merchantId, date, ...totals.days[index]!, outstanding, waiting: ofDay };
      });

      async function readAtOneMoment(ids: readonly string[]): Promise<{ totals: DaysRead; lines: LineToAppend[] }> {
        for (let attempt = 1; ; attempt++) {
          const totals = await counters.readDays(shard, days);
          const { lines, all } = await read(shard, ids, totals.lastItem, MAX_WAITING);
          if (!all)
            throw new TallyError(
              'UNAVAILABLE',
              `More than ${MAX_WAITING} events of shard ${shard} wait to be flushed; totals can be compared when fewer do.`,
            );
          const old = await oldLayout.waiting(ids);
          // A repeat that left the totals before its item was read would be missing here.
          if ((await counters.subtractions(shard)) === totals.subtractions)
            return { totals, lines: [...lines, ...old] };
          if (attempt === ATTEMPTS)
            throw new TallyError('UNAVAILABLE', `The totals of shard ${shard} changed whenever they were read.`);
        }
      }
    },
  };
}

const nameOf = ({ merchantId, date }: { merchantId: string; date: Day }) => `${merchantId}\n${date}`;
const nameOfLine = (line: JournalLine) => `${line.merchant_id}\n${line.date}`;

/** Returns the events of an item, each with its origin. */
export function linesOf({ batchId, lines }: JournalItem): LineToAppend[] {
  const parsed = JSON.parse(`[${lines.replaceAll('\n', ',')}]`) as LineToAppend[];
  parsed.forEach((line, position) => {
    line.origin = `${batchId}:${position}`;
  });
  return parsed;
}

/** Sums what lines add to their day, by metric type. */
export function sumOf(lines: readonly JournalLine[]): Map<string, Units> {
  const sums = new Map<string, Units>();
  for (const line of lines) {
    eachAmount(line, (type, units) => sums.set(type, (sums.get(type) ?? 0n) + BigInt(units)));
  }
  return sums;
}
