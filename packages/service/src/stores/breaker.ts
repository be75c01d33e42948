import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises';
import { messageOf } from '@tally/contracts';

export type Breaker = {
  /**
   * Runs work of the store. Throws `StoreUnusableError` at once while the store does not answer. Work in progress when
   * the store stops answering gets the same error and may still take effect.
   */
  run<T>(work: () => Promise<T>): Promise<T>;
  /** Returns true if work is refused. */
  isOpen(): boolean;
  /** Probes the store now; resolves once it answered, failed or timed out. */
  look(): Promise<void>;
  /** Refuses work until the store answers its probe. */
  open(reason: Error): void;
  stop(): void;
};

export type BreakerOptions = {
  /** The name of the store in errors. */
  name: string;
  /** Sends the store a small request, past anything queued; rejects if the store must not be used. */
  probe(): Promise<unknown>;
  /** Called when the store becomes unusable, with the reason, and when it is usable again. */
  onChange?(reason: Error | undefined): void;
};

/** Slower work triggers a probe: the work may be slow, or the store may hang. */
const SLOW_MS = 500;
/** A store that does not answer a probe within this time hangs. */
const DEADLINE_MS = 500;
/** The interval of probes while a store is unusable. */
const RETRY_MS = 100;

/**
 * The store does not answer, or must not be used. Has the code of a timed-out connection, so that callers handle both
 * alike.
 */
export class StoreUnusableError extends Error {
  readonly code = 'ETIMEDOUT';
}

/**
 * A circuit breaker: a store that hangs costs its callers one time-out of `SLOW_MS + DEADLINE_MS` together, not one
 * each. Only the probe decides, so slow work never opens it, and no caller's work tests whether it may close.
 */
export function createBreaker({ name, probe, onChange = () => {} }: BreakerOptions): Breaker {
  const stopping = new AbortController();
  const underWay = new Set<(error: Error) => void>();
  let reason: Error | undefined;
  let asked: Promise<Error | undefined> | undefined;

  /** One probe at a time; resolves with the reason why the store must not be used. */
  function ask(): Promise<Error | undefined> {
    asked ??= probe()
      .then(
        () => undefined,
        (error: unknown) => new StoreUnusableError(`${name} is not used: ${messageOf(error)}`, { cause: error }),
      )
      .finally(() => {
        asked = undefined;
      });
    return asked;
  }

  async function answer(): Promise<Error | undefined> {
    const mine = ask();
    const late = new StoreUnusableError(`${name} does not answer.`);
    const deadline = new AbortController();
    const outcome = await Promise.race([mine, wait(DEADLINE_MS, late, { signal: deadline.signal, ref: false })]);
    deadline.abort();
    if (outcome !== late) return outcome;
    // An answer may have arrived while this process was busy, so read it first.
    await turn();
    await turn();
    return Promise.race([mine, Promise.resolve(late)]);
  }

  async function look(): Promise<void> {
    const found = await answer();
    if (found) open(found);
    else close();
  }

  function close(): void {
    if (!reason) return;
    reason = undefined;
    onChange(undefined);
  }

  function open(error: Error): void {
    for (const giveUp of underWay) giveUp(error);
    underWay.clear();
    const isOpen = reason !== undefined;
    reason = error;
    if (isOpen) return;
    onChange(error);
    void (async () => {
      while (reason && !stopping.signal.aborted) {
        await wait(RETRY_MS, undefined, { ref: false });
        await look();
      }
    })();
  }

  return {
    isOpen: () => reason !== undefined,
    look,
    open,
    stop: () => stopping.abort(),
    async run(work) {
      if (reason) throw reason;
      return new Promise((resolve, reject) => {
        const working = work();
        underWay.add(reject);
        const slow = setInterval(() => void look(), SLOW_MS);
        slow.unref();
        void working.then(resolve, reject).finally(() => {
          clearInterval(slow);
          underWay.delete(reject);
        });
      });
    },
  };
}
