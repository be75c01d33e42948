import { TallyError } from '@tally/contracts';

export type FairQueueOptions = {
  /** Tasks that run concurrently. */
  places: number;
  /** Tasks of one caller that may wait; default: 100. */
  waitingPerCaller?: number;
  /** Milliseconds that a task waits for a slot; default: 30 seconds. */
  waitMs?: number;
  /** Returns milliseconds and never goes back. */
  clock?: () => number;
};

/**
 * Runs a caller's work in a free slot, and returns its result. Throws RATE_LIMITED if the caller has too many tasks
 * waiting, or if no slot became free in time.
 */
export type FairQueue = <T>(callerId: string, work: () => Promise<T>) => Promise<T>;

type Caller = {
  /** When each running task began. */
  running: Set<{ at: number }>;
  waiting: Set<() => void>;
  /** Milliseconds of slots that the caller used. One that comes begins beside those that are there. */
  used: number;
  /** Milliseconds that its tasks lately took. */
  typical: number;
};

/** Whoever waits for a task of this length hardly notices. */
const SHORT_MS = 1_000;
/** The share of the last task in what tasks lately took. */
const LATEST = 0.2;
/** Tasks that wait of a caller that asks for much at once; a page of a console asks for less. */
const MANY = 10;
/** Callers without work whose use is remembered. */
const REMEMBERED = 1_000;

/**
 * Limits concurrent work in this process. The caller that used the least time is next, however many tasks each has
 * waiting; of equals the one with the fewest running, and of those the one that was served longest ago. One caller
 * never has the last slot; nor does a caller whose tasks lately took over a second, or one with many that wait. So short
 * work of a quiet caller begins at once, however much others ask.
 */
export function createFairQueue({
  places,
  waitingPerCaller = 100,
  waitMs = 30_000,
  clock = () => performance.now(),
}: FairQueueOptions): FairQueue {
  const perCaller = Math.max(1, places - 1);
  /** Callers with work, by when their last task ended, or else by when they came. */
  const callers = new Map<string, Caller>();
  /** Callers without work, the one that left last at the end. */
  const remembered = new Map<string, Caller>();
  let running = 0;
  /** What the caller that was served last had used. */
  let level = 0;

  const usedBy = ({ used, running }: Caller) => {
    let all = used;
    for (const { at } of running) all += clock() - at;
    return all;
  };

  const mayHaveLast = ({ typical, waiting, running: [first] }: Caller) =>
    waiting.size <= MANY && typical <= SHORT_MS && (first === undefined || clock() - first.at <= SHORT_MS);

  function nextCaller(): Caller | undefined {
    const isLast = running > 0 && running === places - 1;
    let next: { caller: Caller; used: number } | undefined;
    for (const caller of callers.values()) {
      if (caller.waiting.size === 0 || caller.running.size >= perCaller || (isLast && !mayHaveLast(caller))) continue;
      const used = usedBy(caller);
      if (!next || used < next.used || (used === next.used && caller.running.size < next.caller.running.size))
        next = { caller, used };
    }
    return next?.caller;
  }

  function begin(): void {
    while (running < places) {
      const caller = nextCaller();
      if (!caller) return;
      level = Math.max(level, usedBy(caller));
      const [next] = caller.waiting;
      caller.waiting.delete(next!);
      running++;
      next!();
    }
  }

  function come(id: string): Caller {
    const known = callers.get(id) ?? remembered.get(id);
    const caller = known ?? { running: new Set(), waiting: new Set(), used: 0, typical: 0 };
    if (!callers.has(id)) caller.used = Math.max(caller.used, level);
    remembered.delete(id);
    callers.set(id, caller);
    return caller;
  }

  function leave(id: string, caller: Caller): void {
    if (caller.running.size > 0 || caller.waiting.size > 0) return;
    callers.delete(id);
    remembered.set(id, caller);
    if (remembered.size > REMEMBERED) remembered.delete(remembered.keys().next().value!);
  }

  function place(id: string, caller: Caller): Promise<{ at: number }> {
    return new Promise((resolve, reject) => {
      const next = () => {
        clearTimeout(timer);
        const task = { at: clock() };
        caller.running.add(task);
        resolve(task);
      };
      const timer = setTimeout(() => {
        caller.waiting.delete(next);
        leave(id, caller);
        reject(limited(`All ${places} places are taken.`, places));
      }, waitMs);
      caller.waiting.add(next);
      begin();
    });
  }

  return async (id, work) => {
    if ((callers.get(id)?.waiting.size ?? 0) >= waitingPerCaller)
      throw limited(`At most ${waitingPerCaller} requests of a caller wait at once.`, waitingPerCaller);
    const caller = come(id);
    const task = await place(id, caller);
    try {
      return await work();
    } finally {
      const took = clock() - task.at;
      caller.running.delete(task);
      running--;
      caller.used += took;
      caller.typical += (took - caller.typical) * LATEST;
      // Behind all others.
      callers.delete(id);
      callers.set(id, caller);
      leave(id, caller);
      begin();
    }
  };
}

const limited = (message: string, limit: number) =>
  new TallyError('RATE_LIMITED', message, { details: { limit, retryAfter: 1 } });
