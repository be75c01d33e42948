import { TallyError } from '@tally/contracts';
import type { Caller } from '../callers/auth.ts';

export type CallerLimits = {
  /**
   * Counts calls of a caller and reserves slots for them; the returned function releases the slots. Throws RATE_LIMITED
   * if the caller has none left, concurrently or in this minute. Tally's own services are exempt: their callers are
   * limited.
   */
  enter(caller: Pick<Caller, 'id' | 'role'>, taken: { calls: number; places: number }): () => void;
};

export type CallerLimitsOptions = {
  /** Concurrent calls of one caller. */
  atOnce: number;
  /** Calls of one caller per minute of the clock. */
  perMinute: number;
  now?: () => number;
};

const MINUTE_MS = 60_000;
const FREE = () => {};

/** Limits of each caller in this process; see rate-limit.ts for those that all processes share. */
export function createCallerLimits({ atOnce, perMinute, now = Date.now }: CallerLimitsOptions): CallerLimits {
  const running = new Map<string, number>();
  const minute = { number: 0, calls: new Map<string, number>() };

  function countMinute(callerId: string, calls: number): void {
    const at = now();
    const number = Math.floor(at / MINUTE_MS);
    if (number !== minute.number) {
      minute.number = number;
      minute.calls.clear();
    }
    const made = (minute.calls.get(callerId) ?? 0) + calls;
    if (made > perMinute) {
      const retryAfter = Math.max(1, Math.ceil(((number + 1) * MINUTE_MS - at) / 1000));
      throw new TallyError('RATE_LIMITED', `Too many calls: at most ${perMinute} per minute.`, {
        details: { limit: perMinute, windowSeconds: MINUTE_MS / 1000, retryAfter },
      });
    }
    minute.calls.set(callerId, made);
  }

  return {
    enter({ id, role }, { calls, places }) {
      if (role === 'service') return FREE;
      const before = running.get(id) ?? 0;
      // One batch may exceed the limit; it runs when no other call of the caller runs.
      if (places > 0 && before > 0 && before + places > atOnce) {
        throw new TallyError('RATE_LIMITED', `Too many calls at once: at most ${atOnce}.`, {
          details: { atOnce, retryAfter: 1 },
        });
      }
      countMinute(id, calls);
      if (places === 0) return FREE;
      running.set(id, before + places);
      return () => {
        const left = running.get(id)! - places;
        if (left > 0) running.set(id, left);
        else running.delete(id);
      };
    },
  };
}
