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
      waiting = undefined;
      const run = work();
      running = run;
      return run;
    })();
    return waiting;
  };
}
