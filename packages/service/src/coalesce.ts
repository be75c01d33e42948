import { setImmediate as nextTurn } from 'node:timers/promises';

/**
 * Shares runs of `work` between callers. A caller joins only a run that starts after its call, so everything
 * acknowledged before the call is in its run. At most one run is active and one waits. If several callers share runs,
 * each run first waits for `gather`: the callers of the last one ask again at once, and join too.
 */
export function coalesce<T>(work: () => Promise<T>, gather?: () => Promise<unknown>): () => Promise<T> {
  let running: Promise<unknown> | undefined;
  let waiting: Promise<T> | undefined;
  let [callers, callersOfLast] = [0, 0];

  return () => {
    callers++;
    waiting ??= (async () => {
      await running?.catch(() => {});
      // Requests that have already arrived are read in this turn of the event loop, one after the other.
      await nextTurn();
      if (callers > 1 || callersOfLast > 1) await gather?.();
      waiting = undefined;
      [callers, callersOfLast] = [0, callers];
      const run = work();
      running = run;
      return run;
    })();
    return waiting;
  };
}

/** The same for work with an argument: callers with equal arguments, compared as JSON, share runs. */
export function coalesceBy<Asked, T>(
  work: (asked: Asked) => Promise<T>,
  gather?: () => Promise<unknown>,
): (asked: Asked) => Promise<T> {
  const known = new Map<string, { run: () => Promise<T>; callers: number }>();
  return async (asked) => {
    const key = JSON.stringify(asked) ?? '';
    const shared = known.get(key) ?? { run: coalesce(() => work(asked), gather), callers: 0 };
    known.set(key, shared);
    shared.callers++;
    try {
      return await shared.run();
    } finally {
      shared.callers--;
      if (shared.callers === 0) known.delete(key);
    }
  };
}
