import { type Appended, type Holding, isRefusal, type Journal, type JournalLine, type MerchantDay } from '@tally/db';
import type { Counters, JournalItem } from '../counters/counters.ts';
import { reasonOf } from '../dead-letters.ts';
import type { FaultPoint } from '../faults.ts';

export type DrainOptions = {
  /** Told why a merchant could not be flushed; it is tried again. */
  onError(error: unknown): void;
  counters: Counters;
  journal: Journal;
  /** Entries read in one piece; larger pieces merge better in the cubes. */
  pieceEntries: number;
  now: () => number;
  onFlushed(report: PieceReport): void;
  /** Told of each entry that Postgres refused and that became a dead letter. */
  onDeadLetter(line: JournalLine, error: unknown): void;
  fault: FaultPoint;
};

export type PieceReport = { entries: number; inserted: number; changed: MerchantDay[]; durationMs: number };

export type DrainReport = {
  /** Entries that this drain counted into Postgres. */
  inserted: number;
  /** One per merchant that failed; the rest was drained. */
  errors: { key: string; message: string }[];
  /** Everything acknowledged before this moment is in Postgres, if there are no errors. */
  asOf: number;
};

export type Drain = {
  /**
   * Brings to Postgres all that was acknowledged before the call, exactly once. With `wait: false` merchants that
   * another process is flushing are left to it, and those that failed lately to a later call.
   */
  drain(scope: { merchantIds?: readonly string[] | undefined; wait: boolean }): Promise<DrainReport>;
};

const MERCHANTS_PER_PIECE = 64;
const BACKOFF_MS = { first: 500, most: 60_000 };

/**
 * The flush: reads a piece of the journal streams, appends it to the journal table, and only after the commit removes
 * it from the streams. Interrupted anywhere it is repeated, and the repeat adds nothing.
 */
export function createDrain(options: DrainOptions): Drain {
  const { counters, journal, pieceEntries, now, fault } = options;
  const failing = new Map<string, { pauseMs: number; until: number }>();

  /** Flushes one piece of these merchants; returns the merchants that may have more before their `until`. */
  async function flushPiece(
    until: ReadonlyMap<string, string>,
    wait: boolean,
  ): Promise<PieceReport & { more: string[] }> {
    const started = performance.now();
    const entriesEach = Math.ceil(pieceEntries / until.size);
    await fault('flush.before-read');
    const { appended, read } = await journal.exclusively([...until.keys()], { wait }, async (holding) => {
      const read = await Promise.all(
        holding.merchantIds.map(async (merchantId) => ({
          merchantId,
          items: await counters.oldestItems(merchantId, until.get(merchantId)!, entriesEach),
        })),
      );
      await fault('flush.before-append');
      const appended = await appendItems(
        holding,
        read.flatMap((each) => each.items),
      );
      await fault('flush.before-commit');
      return { appended, read };
    });
    await fault('flush.after-commit');
    await Promise.all(read.map(({ merchantId, items }) => counters.remove(merchantId, items)));
    await fault('flush.after-remove');
    const more = read.filter(({ items }) => countOf(items) >= entriesEach).map(({ merchantId }) => merchantId);
    const report = { ...appended, durationMs: performance.now() - started };
    if (report.entries > 0) options.onFlushed(report);
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

  /** A merchant whose entries Postgres refuses: item by item, half by half, until the refused ones stand alone. */
  async function flushByHalves(merchantId: string): Promise<number> {
    const newest = await counters.newestItem(merchantId);
    let inserted = 0;
    while (newest !== null) {
      const [item] = await counters.oldestItems(merchantId, newest, 1);
      if (!item) break;
      inserted += await appendByHalves(merchantId, JSON.parse(item.lines) as JournalLine[]);
      await counters.remove(merchantId, [item]);
    }
    return inserted;
  }

  async function appendByHalves(merchantId: string, lines: readonly JournalLine[]): Promise<number> {
    try {
      const batch = { source: 'stream' as const, lines: JSON.stringify(lines), days: lines.map((line) => line.date) };
      return (await journal.append([merchantId], batch)).inserted;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const [line] = lines;
      if (lines.length > 1) {
        const half = Math.ceil(lines.length / 2);
        const first = await appendByHalves(merchantId, lines.slice(0, half));
        return first + (await appendByHalves(merchantId, lines.slice(half)));
      }
      await journal.exclusively([merchantId], { wait: true }, (holding) => holding.bury(line!, reasonOf(error)));
      options.onDeadLetter(line!, error);
      return 0;
    }
  }

  /** One merchant's trouble must not stop the others: each of a group that failed alone, then what is refused alone. */
  async function flushAlone(merchantId: string, wait: boolean): Promise<number> {
    try {
      return await flushGroup([merchantId], wait);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return flushByHalves(merchantId);
    }
  }

  function failed(merchantId: string): void {
    const pauseMs = Math.min((failing.get(merchantId)?.pauseMs ?? BACKOFF_MS.first / 2) * 2, BACKOFF_MS.most);
    failing.set(merchantId, { pauseMs, until: now() + pauseMs * (0.5 + Math.random() / 2) });
  }

  return {
    async drain({ merchantIds, wait }) {
      const asOf = now();
      // Merchants that are named are looked at whether they are said to be pending or not.
      const wanted = merchantIds ? [...new Set(merchantIds)] : await counters.pendingMerchants();
      const due = (merchantId: string) => wait || (failing.get(merchantId)?.until ?? 0) <= asOf;
      const merchants = wanted.filter(due).sort();
      let inserted = 0;
      const errors: DrainReport['errors'] = [];
      for (const group of chunks(merchants, MERCHANTS_PER_PIECE)) {
        try {
          inserted += await flushGroup(group, wait);
          for (const merchantId of group) failing.delete(merchantId);
        } catch {
          for (const merchantId of group) {
            try {
              inserted += await flushAlone(merchantId, wait);
              failing.delete(merchantId);
            } catch (error) {
              if (!wait) failed(merchantId);
              options.onError(error);
              errors.push({ key: merchantId, message: messageOf(error) });
            }
          }
        }
      }
      return { inserted, errors, asOf };
    },
  };
}

const countOf = (items: readonly JournalItem[]) => items.reduce((sum, item) => sum + item.count, 0);

async function appendItems(holding: Holding, items: readonly JournalItem[]): Promise<Appended> {
  if (items.length === 0) return { entries: 0, inserted: 0, changed: [] };
  const lines = `[${items.map((item) => item.lines.slice(1, -1)).join(',')}]`;
  return holding.append({ source: 'stream', lines, days: items.flatMap((item) => item.days) });
}

function* chunks<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
