import { setTimeout as wait } from 'node:timers/promises';

export type Loop = { stop(): Promise<void> };

const MAX_BACKOFF_MS = 10_000;

/**
 * Calls `work` repeatedly, `intervalMs` after its end; after failures with growing, jittered pauses, so that instances
 * do not return all at once. `stop` waits for the running call.
 */
export function startLoop(intervalMs: number, work: () => Promise<void>, onError: (error: unknown) => void): Loop {
  const stopping = new AbortController();
  let failures = 0;
  const done = (async () => {
    while (!stopping.signal.aborted) {
      try {
        await work();
        failures = 0;
      } catch (error) {
        failures++;
        onError(error);
      }
      const backoff = Math.min(intervalMs * 2 ** failures, Math.max(MAX_BACKOFF_MS, intervalMs));
      const pause = failures === 0 ? intervalMs : backoff * (0.5 + Math.random() / 2);
      await wait(pause, undefined, { signal: stopping.signal }).catch(() => {});
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await done;
    },
  };
}
