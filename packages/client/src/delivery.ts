import { messageOf } from '@tally/contracts/client';
import type { AttemptError, Attempts, Item, Outcome, RefusedItem } from './attempt.ts';
import { type Batch, type BatchLimits, batchesOf, itemsOf, MAX_CALLS, parseBatch, recordsIn } from './batch.ts';
import type { Merger } from './merge.ts';
import { createSealer } from './sealer.ts';
import type { Spool } from './spool/spool.ts';

export type DeliveryOptions = {
  merger: Merger;
  attempts: Attempts;
  spool: Spool | undefined;
  lingerMs: number;
  maxBatch: number;
  maxBatchBytes: number;
  concurrency: number;
  /** An overflowing spool takes over entries above this number in memory. */
  spillAbove: number;
  backoff: Backoff;
  random: () => number;
  onRefused(refused: RefusedItem): void;
  onError(error: AttemptError): void;
};

/**
 * Pauses after failures: `firstMs`, doubled each time up to `mostMs`; `slowMs` for failures that only a person can fix.
 */
export type Backoff = { firstMs: number; mostMs: number; slowMs: number };

type Counts = {
  requests: number;
  retried: number;
  sentRecords: number;
  sentEntries: number;
  duplicates: number;
  rejectedRecords: number;
  spooledEntries: number;
  recoveredEntries: number;
};

export type Delivery = {
  readonly counts: Counts;
  /** Entries taken from the merger that are neither acknowledged nor rejected: in memory, and only on disk. */
  readonly memory: { entries: number; bytes: number };
  readonly spooled: number;
  readonly inFlight: number;
  /** Sets the timer for a group about to be opened, or for a seal that the spool wants. Cheap; sends nothing itself. */
  schedule(): void;
  /** Moves the oldest groups into an overflowing spool at once. Returns false if that is not possible. */
  spill(): boolean;
  /**
   * Resolves with the number of entries left: when everything before is settled, the key is rejected, or at the
   * deadline.
   */
  flush(deadlineMs: number): Promise<number>;
  /** Flushes, then stops. Returns the number of entries left in the spool, and of those in no spool. */
  close(deadlineMs: number): Promise<{ spooled: number; unsent: Item[] }>;
  /**
   * For a process that ends now: writes everything in memory to the spool, synchronously. Without a spool, returns the
   * lost entries; a request in flight may still store some.
   */
  saveNow(): Item[];
};

/** `asked`: the server named the pause. `keyRejected`: the pause after a 401 or 403. */
type Sleeper = { timer: ReturnType<typeof setTimeout>; asked: boolean; keyRejected: boolean; wake(): void };
type Pause = { slow: boolean; afterMs: number; keyRejected?: boolean };
type Waiter = { batches: Set<Batch>; done(): void };

/** A failure that goes on is reported again after this time. */
const REPORT_MS = 60_000;
/** The longest pause while a caller waits in flush or close. */
const URGENT_PAUSE_MS = 500;

/**
 * Sends the contents of the merger, in batches that never change: a retry repeats the same entries with the same ids
 * and times, so Tally counts them once. While no answer arrives, entries continue to be merged.
 */
export function createDelivery(options: DeliveryOptions): Delivery {
  const { merger, attempts, spool, backoff } = options;
  const counts: Counts = {
    requests: 0,
    retried: 0,
    sentRecords: 0,
    sentEntries: 0,
    duplicates: 0,
    rejectedRecords: 0,
    spooledEntries: 0,
    recoveredEntries: 0,
  };
  const limits: BatchLimits = { entries: options.maxBatch, bytes: options.maxBatchBytes, calls: MAX_CALLS };
  const sealer = spool && createSealer(spool, merger, limits);
  const ready: Batch[] = [];
  const inFlight = new Set<Batch>();
  const running = new Set<Promise<void>>();
  const sleepers = new Set<Sleeper>();
  const waiters = new Set<Waiter>();
  const unsent: Item[] = [];
  const queued = { entries: 0, bytes: 0 };
  let sealRun: Promise<void> | undefined;
  let failures = 0;
  /** When each failure since the last success was reported, by its code. */
  const reported = new Map<string, number>();
  let pausedUntil = 0;
  let openSince = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let timerAt = Number.POSITIVE_INFINITY;
  let urgent = 0;
  let closing = false;
  let stopped = false;

  for (const ref of spool?.left.batches ?? []) {
    const { kind, items } = parseBatch(spool!.read(ref));
    counts.recoveredEntries += items.length;
    ready.push({ kind, entries: items.length, bytes: 0, source: { ref } });
  }
  if (ready.length > 0) arm(0);

  /** Runs due work after at most `ms`. The timer keeps the process alive only while a caller waits. */
  function arm(ms: number): void {
    const at = performance.now() + ms;
    if (stopped || timerAt <= at) return;
    clearTimeout(timer);
    timerAt = at;
    timer = setTimeout(() => {
      timerAt = Number.POSITIVE_INFINITY;
      runDue();
    }, ms);
    if (urgent === 0) unref(timer);
  }

  /** Seals and sends what is due, and sets the timer for the rest. */
  function runDue(): void {
    if (stopped) return;
    const now = performance.now();
    const mostInFlight = failures > 0 ? 1 : options.concurrency;
    if (sealRun === undefined && isSealDue(now)) startSeal();
    while (ready.length > 0 && inFlight.size < mostInFlight && now >= pausedUntil) start(ready.shift()!);
    if (merger.size + queued.entries > options.spillAbove && spill()) arm(0);
    if (ready.length > 0 && inFlight.size < mostInFlight) arm(pausedUntil - now);
    if (merger.size > 0 && now - openSince < options.lingerMs) arm(openSince + options.lingerMs - now);
  }

  function isSealDue(now: number): boolean {
    if (sealer && sealer.held.entries > 0) return true;
    if (merger.size === 0) return false;
    if (urgent > 0 || spool?.wantsSeal) return true;
    if (merger.size < limits.entries && now - openSince < options.lingerMs) return false;
    // On disk, batches are made on time, as promised; in memory only when one can be sent, so that more is merged.
    return spool?.promise === 'batch' ? !spool.full : ready.length === 0;
  }

  function startSeal(): void {
    openSince = performance.now();
    if (!sealer || (spool?.promise === 'overflow' && sealer.held.entries === 0)) {
      for (const batch of batchesOf(merger.take(), limits)) queue(batch);
      return;
    }
    sealRun = sealer
      .seal()
      .then(addSpooled, (error: unknown) => {
        spoolFailed(error);
        return sleep(1000);
      })
      .finally(() => {
        sealRun = undefined;
        runDue();
      });
  }

  function addSpooled(batches: Batch[]): void {
    for (const batch of batches) counts.spooledEntries += batch.entries;
    ready.push(...batches);
  }

  function queue(batch: Batch): void {
    queued.entries += batch.entries;
    queued.bytes += batch.bytes;
    ready.push(batch);
  }

  function spill(): boolean {
    if (!sealer || spool?.promise !== 'overflow' || spool.full || sealRun || merger.size === 0) return false;
    try {
      addSpooled(sealer.spill());
      arm(0);
      return true;
    } catch (error) {
      // The sealer keeps the groups, and tries again.
      spoolFailed(error);
      arm(1000);
      return false;
    }
  }

  function spoolFailed(error: unknown): void {
    report({ code: 'SPOOL_FAILED', message: `The spool could not be used: ${messageOf(error)}` });
  }

  /** Reports a failure once while it goes on: retries of a waiting caller follow each other within milliseconds. */
  function report(error: AttemptError): void {
    const now = performance.now();
    if (now - (reported.get(error.code) ?? -REPORT_MS) < REPORT_MS) return;
    reported.set(error.code, now);
    options.onError(error);
  }

  function start(batch: Batch): void {
    inFlight.add(batch);
    const run = deliver(batch)
      .catch(spoolFailed)
      .finally(() => {
        inFlight.delete(batch);
        running.delete(run);
        for (const waiter of waiters) {
          waiter.batches.delete(batch);
          if (waiter.batches.size === 0) waiter.done();
        }
        runDue();
      });
    running.add(run);
  }

  async function deliver(batch: Batch): Promise<void> {
    const { source } = batch;
    let left = ['ref' in source ? parseBatch(spool!.read(source.ref)).items : itemsOf(source.groups)];
    while (left.length > 0) {
      const [some, ...rest] = left as [Item[], ...Item[][]];
      const outcome = await attempts.send(batch.kind, some);
      left = [...(await follow(outcome, some, batch.kind)), ...rest];
      if (stopped) break;
    }
    if (left.length > 0) {
      if ('groups' in batch.source) unsent.push(...left.flat());
      return;
    }
    if ('ref' in batch.source) spool!.done(batch.source.ref);
    if ('groups' in source) {
      queued.entries -= batch.entries;
      queued.bytes -= batch.bytes;
    }
  }

  /** Handles an outcome. Returns the items to send again, one array per request. */
  async function follow(outcome: Outcome, items: Item[], kind: Batch['kind']): Promise<Item[][]> {
    if (outcome.kind === 'split') {
      const half = items.length >> 1;
      const limit = kind === 'track' ? 'calls' : 'entries';
      if (outcome.tooLarge) limits[limit] = Math.max(1, Math.min(limits[limit], items.length - half));
      return [items.slice(0, half), items.slice(half)];
    }
    if (outcome.kind === 'again') {
      if (stopped) return [items];
      failures++;
      // A rejected key is tried rarely, and each time may be the last.
      if (outcome.keyRejected) options.onError(outcome.error);
      else report(outcome.error);
      await pause(outcome);
      return [items];
    }
    return settle(outcome, items);
  }

  /** Counts what an answer acknowledged and refused. Returns the rest, to send again. */
  async function settle(answer: Extract<Outcome, { kind: 'answered' }>, items: Item[]): Promise<Item[][]> {
    const { again, refused, duplicates, error } = answer;
    if (error && again.length > 0) report(error);
    else if (error) options.onError(error);
    for (const one of refused) options.onRefused(one);
    const refusedRecords = recordsIn(refused.map(({ item }) => item));
    counts.rejectedRecords += refusedRecords;
    counts.sentRecords += recordsIn(items) - refusedRecords - recordsIn(again);
    counts.sentEntries += items.length - refused.length - again.length;
    counts.duplicates += duplicates;
    if (again.length === 0) {
      failures = 0;
      reported.clear();
      pausedUntil = 0;
      return [];
    }
    failures++;
    await pause({ slow: false, afterMs: 0 });
    return [again];
  }

  /** Waits exponentially longer with full jitter, so that producers do not return all at once; at least `afterMs`. */
  async function pause({ slow, afterMs, keyRejected = false }: Pause): Promise<void> {
    counts.retried++;
    const most = Math.min(backoff.mostMs, backoff.firstMs * 2 ** Math.min(failures - 1, 30));
    const jitter = options.random() * (urgent > 0 ? Math.min(most, URGENT_PAUSE_MS) : most);
    const ms = Math.max(afterMs, slow && (urgent === 0 || keyRejected) ? backoff.slowMs : 0) + jitter;
    pausedUntil = Math.max(pausedUntil, performance.now() + ms);
    const woken = sleep(ms, afterMs > 0, keyRejected);
    if (keyRejected) for (const { done } of waiters) done();
    await woken;
  }

  function sleep(ms: number, asked = false, keyRejected = false): Promise<void> {
    if (stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(sleeper.timer);
        sleepers.delete(sleeper);
        resolve();
      };
      const sleeper: Sleeper = { timer: setTimeout(wake, ms), asked, keyRejected, wake };
      if (urgent === 0) unref(sleeper.timer);
      sleepers.add(sleeper);
    });
  }

  const isKeyRejected = () => [...sleepers].some(({ keyRejected }) => keyRejected);

  /**
   * Ends pauses, except those requested by the server, which then keep the process alive. After a rejected key, only
   * close ends the pause, for one last try.
   */
  function endPauses(): void {
    ref(timer);
    for (const sleeper of sleepers) {
      if (sleeper.asked) ref(sleeper.timer);
      else if (closing || !sleeper.keyRejected) sleeper.wake();
    }
    if (![...sleepers].some(({ asked, keyRejected }) => asked || keyRejected)) pausedUntil = 0;
  }

  /** Lets the process end despite active pauses: no caller waits any more. */
  function releaseTimers(): void {
    unref(timer);
    for (const sleeper of sleepers) unref(sleeper.timer);
  }

  async function flush(deadlineMs: number): Promise<number> {
    const until = performance.now() + deadlineMs;
    urgent++;
    try {
      endPauses();
      // The running seal began before the call; one more takes later records.
      for (let round = 0; round < 2; round++) {
        runDue();
        if (sealRun) await within(sealRun, until);
      }
      const unsealed = merger.size + (sealer?.held.entries ?? 0);
      const batches = new Set([...ready, ...inFlight]);
      if (batches.size > 0 && !isKeyRejected()) {
        const settled = new Promise<void>((resolve) => {
          const waiter = { batches, done: resolve };
          waiters.add(waiter);
        });
        runDue();
        await within(settled, until);
        for (const waiter of waiters) if (waiter.batches === batches) waiters.delete(waiter);
      }
      return [...batches].reduce((sum, { entries }) => sum + entries, unsealed);
    } finally {
      urgent--;
      if (urgent === 0) releaseTimers();
    }
  }

  /** Writes everything in memory to the spool, synchronously. Returns false if entries are in no spool afterwards. */
  function saveToSpool(): boolean {
    if (!sealer) return false;
    try {
      addSpooled(sealer.sealNow());
      for (const batch of [...ready, ...inFlight]) sealer.keep(batch);
      spool!.syncNow();
      return true;
    } catch (error) {
      spoolFailed(error);
      return spool!.promise === 'record';
    }
  }

  const itemsInMemory = (batches: Iterable<Batch>): Item[] =>
    [...batches].flatMap(({ source }) => ('groups' in source ? itemsOf(source.groups) : []));

  function spooled(): number {
    return [...ready, ...inFlight].reduce((sum, { source, entries }) => sum + ('ref' in source ? entries : 0), 0);
  }

  return {
    counts,
    get memory() {
      const held = sealer?.held;
      return { entries: queued.entries + (held?.entries ?? 0), bytes: queued.bytes + (held?.bytes ?? 0) };
    },
    get spooled() {
      return spooled();
    },
    get inFlight() {
      return inFlight.size;
    },
    schedule() {
      if (merger.size === 0) openSince = performance.now();
      if (merger.size + 1 >= limits.entries || spool?.wantsSeal) arm(0);
      else arm(options.lingerMs);
    },
    spill,
    flush,

    async close(deadlineMs) {
      closing = true;
      await flush(deadlineMs);
      stopped = true;
      clearTimeout(timer);
      for (const { wake } of sleepers) wake();
      await sealRun;
      const kept = saveToSpool();
      const left = spooled();
      attempts.abort();
      // A fetch that ignores its abort is not waited for.
      await within(Promise.all(running), performance.now() + 1000);
      return { spooled: left, unsent: kept ? [] : [...unsent, ...itemsInMemory(ready)] };
    },

    saveNow() {
      return saveToSpool() ? [] : [...unsent, ...itemsInMemory([...inFlight, ...ready]), ...itemsOf(merger.take())];
    },
  };
}

const unref = (timer: unknown): void => (timer as { unref?(): void } | undefined)?.unref?.();
const ref = (timer: unknown): void => (timer as { ref?(): void } | undefined)?.ref?.();

/** Waits for a promise, at most until a moment of `performance.now()`. */
export async function within(promise: Promise<unknown>, until: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.max(0, Math.min(until - performance.now(), 2 ** 31 - 1)));
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
