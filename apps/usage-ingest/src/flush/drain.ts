import { setTimeout as pause } from 'node:timers/promises';
import { messageOf } from '@tally/contracts';
import {
  type Appended,
  type Fence,
  isRefusal,
  type Journal,
  type JournalLine,
  LeaseLostError,
  type LineToAppend,
  NOTHING_APPENDED,
  type ShardsStore,
  sqlState,
} from '@tally/db';
import { recordStep } from '@tally/service';
import type { Amount, Counters, JournalItem, Removal } from '../counters/counters.ts';
import { SHARD_COUNT_KEY } from '../counters/keys.ts';
import { batchKey } from '../counters/record-call.ts';
import { reasonOf } from '../dead-letters.ts';
import type { FaultPoint } from '../faults.ts';
import { eachAmount } from '../line.ts';
import { linesOf } from '../pending.ts';

export type DrainOptions = {
  counters: Counters;
  journal: Journal;
  leases: ShardsStore;
  /** Returns why nothing may be flushed, such as stores that disagree on the number of shards. */
  problem(): string | undefined;
  /** Identifies this process as the holder of leases. */
  holder: string;
  /** Events per batch; more while the flush is behind. */
  pieceEntries: number;
  now: () => number;
  /** Called before shards are taken: derives while too many events wait for it, so that the flush cannot outrun it. */
  catchUp(): Promise<void>;
  onFlushed(report: Pick<Appended, 'entries' | 'inserted' | 'conflicts' | 'folded'> & { durationMs: number }): void;
  /** Called with the reason why a shard could not be flushed; it is tried again. */
  onError(error: unknown): void;
  /** Called for each event that Postgres rejected and that became a dead letter. */
  onDeadLetter(line: JournalLine, error: unknown): void;
  fault: FaultPoint;
};

export type DrainReport = {
  /** Events that this drain counted into Postgres. */
  inserted: number;
  /** One error per failed shard; the others were drained. */
  errors: { key: string; message: string }[];
  /** True if events of merchants that were being corrected are still pending; never with `wait`. */
  leftOut: boolean;
  /** If there are no errors and nothing was left out, everything acknowledged before this moment is in Postgres. */
  asOf: number;
};

export type Drain = {
  /**
   * Moves everything acknowledged before the call to Postgres, exactly once. With `wait: false`, skips shards that
   * another process flushes, and shards that failed lately.
   */
  drain(scope: {
    shards?: readonly number[] | undefined;
    wait: boolean;
    /** How many shards to hold at once; the others are for other flushers. */
    limit?: number | undefined;
  }): Promise<DrainReport>;
};

/** The remaining work of one shard. */
type Work = {
  shard: number;
  /** The last item to flush. */
  until: string;
  /** The last item that was read; earlier ones that still exist were left out. */
  after: string | null;
  /** True if events were left out because their merchant was locked. */
  leftOut: boolean;
};

type ReadItems = { work: Work; items: JournalItem[]; lines: LineToAppend[][] };

/** Identifies a flush in traces. */
export const flushKey = (id: string): string => `flush:${id}`;

/** The length of a lease. Losing one is harmless; that of a dead process blocks its shards this long. */
const LEASE_MS = 5_000;
/** The interval at which a drain retries shards held by others, and locked merchants. */
const POLL_MS = 20;
/** How long a drain waits for others without any progress. */
const PATIENCE_MS = 30_000;
const BACKOFF_MS = { first: 500, max: 60_000 };
const PIECE_BYTES = 16 * 1024 * 1024;
/** A batch may grow by this factor while the flush is behind. */
const PIECE_GROWTH = 4;

/**
 * The flush: reads a batch of some shards' streams, appends it to the journal table, and removes it from the streams
 * only after the commit. Interrupted anywhere it is repeated, and the repeat adds nothing.
 */
export function createDrain(options: DrainOptions): Drain {
  const { counters, journal, leases, holder, pieceEntries, now, fault } = options;
  const failing = new Map<number, { pauseMs: number; until: number }>();

  async function read(work: Work, events: number, bytes: number): Promise<ReadItems> {
    const items = await counters.oldestItems(work.shard, work, { events, bytes });
    return { work, items, lines: items.map(linesOf) };
  }

  async function append(fence: Fence, lines: readonly LineToAppend[]): Promise<Appended> {
    if (lines.length === 0) return NOTHING_APPENDED;
    return journal.append({ source: 'stream', lines, fence, beforeCommit: () => fault('flush.before-commit') });
  }

  /** Halves a batch that Postgres rejects until the rejected events are alone and become dead letters. */
  async function appendByHalves(fence: Fence, lines: readonly LineToAppend[]): Promise<Appended> {
    try {
      return await append(fence, lines);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const [line] = lines;
      if (lines.length > 1) {
        const half = Math.ceil(lines.length / 2);
        const first = await appendByHalves(fence, lines.slice(0, half));
        const second = await appendByHalves(fence, lines.slice(half));
        return {
          entries: first.entries + second.entries,
          flushes: [...first.flushes, ...second.flushes],
          inserted: first.inserted + second.inserted,
          repeats: [...first.repeats, ...second.repeats.map((position) => position + half)],
          known: [],
          conflicts: [...first.conflicts, ...second.conflicts.map((position) => position + half)],
          folded: [...first.folded, ...second.folded.map((each) => ({ ...each, position: each.position + half }))],
          changed: [...first.changed, ...second.changed],
          skipped: [...first.skipped, ...second.skipped],
        };
      }
      const isFirst = await journal.addDeadLetter(line!, reasonOf(error));
      options.onDeadLetter(line!, error);
      return { ...NOTHING_APPENDED, entries: 1, repeats: isFirst ? [] : [0] };
    }
  }

  /** Counts a batch, then removes it from the streams and subtracts its repeats from the totals. */
  async function flushItems(fence: Fence, reads: readonly ReadItems[], byHalves: boolean): Promise<number> {
    const [started, startedAt] = [performance.now(), Date.now()];
    const lines = reads.flatMap((each) => each.lines.flat());
    await fault('flush.before-append');
    const appended = await (byHalves ? appendByHalves : append)(fence, lines);
    await fault('flush.after-commit');
    for (const flush of appended.flushes)
      recordStep(() => ({
        ...{ name: 'tally.flush', key: flushKey(flush), startedAt },
        after: reads.flatMap(({ items }) => items.map(({ batchId }) => batchKey(batchId))),
        attributes: { 'tally.events': appended.entries, 'tally.inserted': appended.inserted },
      }));
    const [skipped, repeats] = [new Set(appended.skipped), new Set(appended.repeats)];
    let position = 0;
    const removals = reads.map(({ work, items, lines }) => {
      const own: Removal[] = [];
      items.forEach((item, index) => {
        const ofItem = lines[index]!;
        const repeated = ofItem.filter((_, at) => repeats.has(position + at));
        position += ofItem.length;
        if (ofItem.some((line) => skipped.has(line.merchant_id))) work.leftOut = true;
        else own.push({ item, repeats: repeated.flatMap(amountsOf) });
      });
      return { shard: work.shard, own };
    });
    await Promise.all(removals.map(({ shard, own }) => counters.remove(shard, own)));
    await fault('flush.after-remove');
    if (appended.entries > 0) options.onFlushed({ ...appended, durationMs: performance.now() - started });
    return appended.inserted;
  }

  /** Flushes one batch. One shard's failure must not stop the others, so a failed batch is retried shard by shard. */
  async function flushPiece(
    fence: Fence,
    works: readonly Work[],
    events: number,
    failed: (shard: number, error: unknown) => void,
  ): Promise<number> {
    await fault('flush.before-read');
    const [eventsEach, bytesEach] = [events, PIECE_BYTES].map((all) => Math.ceil(all / works.length));
    const results = await Promise.allSettled(works.map((work) => read(work, eventsEach!, bytesEach!)));
    const reads: ReadItems[] = [];
    results.forEach((result, index) => {
      if (result.status === 'fulfilled') reads.push(result.value);
      else failed(works[index]!.shard, result.reason);
    });
    let inserted = 0;
    try {
      inserted += await flushItems(fence, reads, false);
    } catch (error) {
      if (error instanceof LeaseLostError) throw error;
      // An unavailable Postgres is unavailable for each shard.
      if (!isRefusal(error) && (reads.length === 1 || sqlState(error) === '')) {
        for (const { work } of reads) failed(work.shard, error);
        return inserted;
      }
      for (const each of reads) {
        try {
          inserted += await flushItems(fence, [each], true);
        } catch (own) {
          if (own instanceof LeaseLostError) throw own;
          failed(each.work.shard, own);
        }
      }
    }
    for (const { work, items } of reads) work.after = items.at(-1)?.streamId ?? work.until;
    return inserted;
  }

  const isDone = ({ after, until }: Work) => after !== null && !isBefore(after, until);

  return {
    async drain({ shards, wait, limit }) {
      const asOf = now();
      const problem = options.problem();
      if (problem) {
        return { inserted: 0, errors: [{ key: SHARD_COUNT_KEY, message: problem }], leftOut: false, asOf };
      }
      const all = shards ?? Array.from({ length: counters.keys.shards }, (_, shard) => shard);
      const due = all.filter((shard) => wait || (failing.get(shard)?.until ?? 0) <= performance.now());
      const newest = await counters.newestItems(due);
      const todo = new Map<number, Work>();
      due.forEach((shard, index) => {
        const until = newest[index];
        if (until) todo.set(shard, { shard, until, after: null, leftOut: false });
        else failing.delete(shard);
      });
      const errors: DrainReport['errors'] = [];
      const failed = (shard: number, error: unknown) => {
        todo.delete(shard);
        options.onError(error);
        errors.push({ key: counters.keys.journal(shard), message: messageOf(error) });
        const pauseMs = Math.min((failing.get(shard)?.pauseMs ?? BACKOFF_MS.first / 2) * 2, BACKOFF_MS.max);
        if (!wait) failing.set(shard, { pauseMs, until: performance.now() + pauseMs * (0.5 + Math.random() / 2) });
      };
      let [inserted, size, progress] = [0, pieceEntries, performance.now()];
      const most = Math.min(limit ?? todo.size, todo.size);
      /** One batch was not enough: from now on two are in flight, each of half of the shards. */
      let isBehind = false;
      let second: Promise<PromiseSettledResult<void>[]> | undefined;
      let leftOut = false;
      /** Shards of active leases: a slow batch outlasts its lease, and the other half must not repeat it. */
      const held = new Set<number>();

      /** Flushes shards under one lease, until they are done or half of the lease has passed. */
      const flushLeased = async (fence: Fence) => {
        const taken = performance.now();
        for (;;) {
          const works = fence.shards.flatMap((shard) => todo.get(shard) ?? []);
          if (works.length === 0 || performance.now() - taken > LEASE_MS / 2) return;
          const counted = await flushPiece(fence, works, size, failed);
          inserted += counted;
          progress = performance.now();
          size = Math.min(size * 2, pieceEntries * PIECE_GROWTH);
          for (const work of works.filter(isDone)) {
            if (work.leftOut && wait) {
              [work.after, work.leftOut] = [null, false];
              return;
            }
            leftOut ||= work.leftOut;
            todo.delete(work.shard);
            failing.delete(work.shard);
          }
          if (!isBehind && works.some(({ shard }) => todo.has(shard))) {
            isBehind = true;
            return;
          }
        }
      };

      const flushAll = async (isSecond: boolean) => {
        while (todo.size > 0) {
          if (isBehind && !isSecond) second ??= Promise.allSettled([flushAll(true)]);
          await options.catchUp().catch((error: unknown) => {
            // Events count even if derivation fails.
            if (sqlState(error) === '') throw error;
            options.onError(error);
          });
          const wanted = [...todo.keys()].filter((shard) => !held.has(shard));
          const share = isBehind ? Math.ceil(most / 2) : most;
          const fence = await leases.take(wanted, share, holder, LEASE_MS);
          if (fence) {
            for (const shard of fence.shards) held.add(shard);
            try {
              await flushLeased(fence);
            } catch (error) {
              if (!(error instanceof LeaseLostError)) throw error;
            } finally {
              for (const shard of fence.shards) held.delete(shard);
              await leases.release(fence).catch(() => {});
            }
            continue;
          }
          if (!wait || isSecond) break;
          if (performance.now() - progress > PATIENCE_MS) {
            for (const shard of todo.keys())
              failed(shard, new Error('another flusher has held the shard for too long'));
            break;
          }
          await pause(POLL_MS);
          const waiting = [...todo.values()];
          const oldest = await counters.oldestItemIds(waiting.map((work) => work.shard));
          waiting.forEach(({ shard, until }, index) => {
            const first = oldest[index];
            if (!first || isBefore(until, first)) todo.delete(shard);
          });
        }
      };

      const ended = await Promise.allSettled([flushAll(false)]);
      for (const end of [...ended, ...((await second) ?? [])]) if (end.status === 'rejected') throw end.reason;
      return { inserted, errors, leftOut, asOf };
    },
  };
}

function amountsOf(line: JournalLine): Amount[] {
  const amounts: Amount[] = [];
  const { merchant_id: merchantId, date } = line;
  eachAmount(line, (metricType, units) => amounts.push({ merchantId, date, metricType, units }));
  return amounts;
}

/** Returns true if one stream id is smaller than another. */
export function isBefore(one: string, other: string): boolean {
  const [a, b] = [one, other].map((id) => id.split('-').map(Number) as [number, number]);
  return a![0] < b![0] || (a![0] === b![0] && a![1] < b![1]);
}
