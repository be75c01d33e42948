import { isTallyError } from '@tally/contracts';
import {
  type Appended,
  isRefusal,
  type Journal,
  type JournalLine,
  type LineToAppend,
  type MerchantDay,
  OLD_ORIGIN,
} from '@tally/db';
import type { Counters, JournalItem } from '../counters/counters.ts';
import type { FaultPoint } from '../faults.ts';

export type DrainOptions = {
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
    const read = await Promise.all(
      [...until].map(async ([merchantId, last]) => ({
        merchantId,
        items: await counters.oldestItems(merchantId, last, entriesEach),
      })),
    );
    await fault('flush.before-append');
    const lines = read.flatMap((each) => each.items).flatMap(linesOf);
    const appended = await append(lines);
    await fault('flush.after-commit');
    const flushed = read.filter(({ merchantId }) => !appended.skipped.includes(merchantId));
    await Promise.all(flushed.map(({ merchantId, items }) => counters.remove(merchantId, items)));
    await fault('flush.after-remove');
    const more = flushed.filter(({ items }) => countOf(items) >= entriesEach).map(({ merchantId }) => merchantId);
    // Who waits asks again for those that were left out; others leave them to their next call.
    if (wait) more.push(...appended.skipped);
    const report = { ...appended, durationMs: performance.now() - started };
    if (report.entries > 0) options.onFlushed(report);
    return { ...report, more };
  }

  async function append(lines: readonly LineToAppend[]): Promise<Appended> {
    if (lines.length === 0) return { entries: 0, inserted: 0, repeats: [], changed: [], skipped: [] };
    return journal.append({ source: 'stream', lines, beforeCommit: () => fault('flush.before-commit') });
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
      inserted += await appendByHalves(merchantId, linesOf(item));
      await counters.remove(merchantId, [item]);
    }
    return inserted;
  }

  async function appendByHalves(merchantId: string, lines: readonly LineToAppend[]): Promise<number> {
    try {
      const { inserted, skipped } = await append(lines);
      return skipped.length > 0 ? appendByHalves(merchantId, lines) : inserted;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const [line] = lines;
      if (lines.length > 1) {
        const half = Math.ceil(lines.length / 2);
        const first = await appendByHalves(merchantId, lines.slice(0, half));
        return first + (await appendByHalves(merchantId, lines.slice(half)));
      }
      const reason = { code: isTallyError(error) ? error.code : 'REFUSED', message: messageOf(error) };
      const { origin: _, ...buried } = line!;
      await journal.bury(buried, reason);
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

function linesOf({ batchId, lines }: JournalItem): LineToAppend[] {
  return (JSON.parse(lines) as JournalLine[]).map((line, position) => ({
    ...line,
    origin: `${OLD_ORIGIN}${batchId}:${position}`,
  }));
}

function* chunks<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));
