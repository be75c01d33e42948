import { TallyError } from '@tally/contracts';

export type FairQueueOptions = {
  /** Tasks that run concurrently. */
  places: number;
  /** Tasks of one caller that may wait; default: 100. */
  waitingPerCaller?: number;
  /** Milliseconds that a task waits for a slot; default: 30 seconds. */
  waitMs?: number;
};

/**
 * Runs a caller's work in a free slot, and returns its result. Throws RATE_LIMITED if the caller has too many tasks
 * waiting, or if no slot became free in time.
 */
export type FairQueue = <T>(callerId: string, work: () => Promise<T>) => Promise<T>;

type Caller = { running: number; waiting: Set<() => void> };

/**
 * Limits concurrent work in this process. The caller with the fewest running tasks is next, and of those the one that
 * was served longest ago, however many tasks each has waiting. One caller never has the last slot, so that another is
 * served at once.
 */
export function createFairQueue({ places, waitingPerCaller = 100, waitMs = 30_000 }: FairQueueOptions): FairQueue {
  const perCaller = Math.max(1, places - 1);
  /** Callers with work, by when their last task ended, or else by when they came. */
  const callers = new Map<string, Caller>();
  let running = 0;

  function nextCaller(): Caller | undefined {
    let least: Caller | undefined;
    for (const caller of callers.values())
      if (caller.waiting.size > 0 && caller.running < (least?.running ?? perCaller)) least = caller;
    return least;
  }

  function begin(): void {
    for (let caller = nextCaller(); caller && running < places; caller = nextCaller()) {
      const [next] = caller.waiting;
      caller.waiting.delete(next!);
      caller.running++;
      running++;
      next!();
    }
  }

  function leave(id: string, caller: Caller): void {
    if (caller.running === 0 && caller.waiting.size === 0) callers.delete(id);
  }

  async function place(id: string): Promise<Caller> {
    const caller = callers.get(id) ?? { running: 0, waiting: new Set() };
    if (caller.waiting.size >= waitingPerCaller)
      throw limited(`At most ${waitingPerCaller} requests of a caller wait at once.`, waitingPerCaller);
    callers.set(id, caller);
    await new Promise<void>((resolve, reject) => {
      const next = () => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        caller.waiting.delete(next);
        leave(id, caller);
        reject(limited(`All ${places} places are taken.`, places));
      }, waitMs);
      caller.waiting.add(next);
      begin();
    });
    return caller;
  }

  return async (id, work) => {
    const caller = await place(id);
    try {
      return await work();
    } finally {
      caller.running--;
      running--;
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
