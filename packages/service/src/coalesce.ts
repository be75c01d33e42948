import { setImmediate as nextTurn } from 'node:timers/promises';

/**
 * Runs `work` so that callers share runs: a caller joins a run only if that has not begun when it asks, so what was
 * acknowledged before the call is always in the run it gets. At most one run is under way and one waits.
 */
export function coalesce<T>(work: () => Promise<T>): () => Promise<T> {
  let running: Promise<unknown> | undefined;
  let waiting: Promise<T> | undefined;

  return () => {
    waiting ??= (async () => {
      await running?.catch(() => {});
      // Requests that have arrived by now are read in this turn of the event loop, one after the other.
      await nextTurn();
      waiting = undefined;
      const run = work();
      running = run;
      return run;
    })();
    return waiting;
  };
}

/** The same for work on something: callers that ask for equal things, by their JSON, share runs. */
export function coalesceBy<Asked, T>(work: (asked: Asked) => Promise<T>): (asked: Asked) => Promise<T> {
  const known = new Map<string, { run: () => Promise<T>; callers: number }>();
  return async (asked) => {
    const key = JSON.stringify(asked) ?? '';
    const shared = known.get(key) ?? { run: coalesce(() => work(asked)), callers: 0 };
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
