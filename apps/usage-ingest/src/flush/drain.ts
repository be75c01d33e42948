import { type Day, isDay } from '@tally/contracts';
import type { Journal, MerchantDay } from '@tally/db';
import type { Counters, JournalItem } from '../counters/counters.ts';

export type DrainOptions = {
  counters: Counters;
  journal: Journal;
  /** Entries read in one piece; larger pieces merge better in the cubes. */
  pieceEntries: number;
  now: () => number;
  onFlushed(report: PieceReport): void;
};

export type PieceReport = { entries: number; inserted: number; changed: MerchantDay[]; durationMs: number };

export type DrainReport = {
  /** Entries that this drain counted into Postgres. */
  inserted: number;
  /** One per merchant or group of merchants that failed; the rest was drained. */
  errors: { key: string; message: string }[];
  /** Everything acknowledged before this moment is in Postgres, if there are no errors. */
  asOf: number;
};

export type Drain = {
  /**
   * Brings to Postgres all that was acknowledged before the call, exactly once. With `wait: false` merchants that
   * another process is flushing are left to it.
   */
  drain(scope: { merchantIds?: readonly string[] | undefined; wait: boolean }): Promise<DrainReport>;
};

/** A guess of entries per stream item, to size the first read. */
const ENTRIES_PER_ITEM = 250;
const MERCHANTS_PER_PIECE = 64;

/**
 * The flush: reads a piece of the journal streams, appends it to the journal table, and only after the commit removes
 * it from the streams. Interrupted anywhere it is repeated, and the repeat adds nothing.
 */
export function createDrain({ counters, journal, pieceEntries, now, onFlushed }: DrainOptions): Drain {
  /** Flushes one piece of these merchants; returns the merchants that may have more before their `until`. */
  async function flushPiece(
    until: ReadonlyMap<string, string>,
    wait: boolean,
  ): Promise<PieceReport & { more: string[] }> {
    const started = performance.now();
    const limit = Math.max(1, Math.ceil(pieceEntries / ENTRIES_PER_ITEM / until.size));
    const { appended, read } = await journal.exclusively([...until.keys()], { wait }, async (holding) => {
      const read = await Promise.all(
        holding.merchantIds.map(async (merchantId) => ({
          merchantId,
          items: await counters.oldestItems(merchantId, until.get(merchantId)!, limit),
        })),
      );
      const items = read.flatMap((each) => each.items);
      if (items.length === 0) return { appended: { entries: 0, inserted: 0, changed: [] }, read };
      const lines = `[${items.map((item) => item.lines.slice(1, -1)).join(',')}]`;
      return { appended: await holding.append({ source: 'stream', lines, days: daysOf(items) }), read };
    });
    await Promise.all(read.map(({ merchantId, items }) => counters.remove(merchantId, items)));
    const more = read.filter(({ items }) => items.length === limit).map(({ merchantId }) => merchantId);
    const report = { ...appended, durationMs: performance.now() - started };
    if (report.entries > 0) onFlushed(report);
    return { ...report, more };
  }

  async function flushGroup(merchantIds: readonly string[], wait: boolean): Promise<number> {
    const newest = await Promise.all(merchantIds.map(async (id) => [id, await counters.newestItem(id)] as const));
    let until = new Map(newest.filter((each): each is readonly [string, string] => each[1] !== null));
    // A merchant without items is still looked at once, so that it stops being pending.
    await Promise.all(newest.filter(([, id]) => id === null).map(([merchantId]) => counters.remove(merchantId, [])));
    let inserted = 0;
    while (until.size > 0) {
      const piece = await flushPiece(until, wait);
      inserted += piece.inserted;
      until = new Map(piece.more.map((merchantId) => [merchantId, until.get(merchantId)!]));
    }
    return inserted;
  }

  return {
    async drain({ merchantIds, wait }) {
      const asOf = now();
      const pending = await counters.pendingMerchants();
      const wanted = merchantIds && new Set(merchantIds);
      const merchants = pending.filter((merchantId) => !wanted || wanted.has(merchantId)).sort();
      let inserted = 0;
      const errors: DrainReport['errors'] = [];
      for (const group of chunks(merchants, MERCHANTS_PER_PIECE)) {
        try {
          inserted += await flushGroup(group, wait);
        } catch {
          // One merchant's trouble must not stop the others: each of the group alone.
          for (const merchantId of group) {
            try {
              inserted += await flushGroup([merchantId], wait);
            } catch (error) {
              errors.push({ key: merchantId, message: messageOf(error) });
            }
          }
        }
      }
      return { inserted, errors, asOf };
    },
  };
}

/** The days of some items, found without parsing them: a line always says its date. */
function daysOf(items: readonly JournalItem[]): Day[] {
  const days = new Set<Day>();
  for (const { lines } of items) {
    for (const [, day] of lines.matchAll(/"date":"(\d{4}-\d{2}-\d{2})"/g)) days.add(day!);
  }
  return [...days].filter(isDay);
}

function* chunks<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
