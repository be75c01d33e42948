import { TallyError } from '@tally/contracts';

export type TurnsOptions = {
  /** Formulas that run concurrently. */
  places: number;
  /** Formulas of one caller that run or wait concurrently. */
  perCaller: number;
  /** Milliseconds that a caller waits for a slot. */
  waitMs: number;
};

/**
 * Runs a caller's work in a free slot. Throws RATE_LIMITED if the caller, or everybody, has too much. Preparation takes
 * no slot.
 */
export type Turns = <P, T>(
  callerId: string,
  parts: { prepare(): Promise<P>; work(prepared: P): Promise<T> },
) => Promise<T>;

/**
 * Limits how many formulas run at once, so that one caller cannot keep the others waiting. First come, first served.
 */
export function createTurns({ places, perCaller, waitMs }: TurnsOptions): Turns {
  const ofCaller = new Map<string, number>();
  const waiting = new Set<() => void>();
  let free = places;

  async function place(): Promise<void> {
    if (free > 0) {
      free--;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const next = () => {
        clearTimeout(timer);
        waiting.delete(next);
        resolve();
      };
      const timer = setTimeout(() => {
        waiting.delete(next);
        reject(limited(`All ${places} places for formulas are taken.`, places));
      }, waitMs);
      waiting.add(next);
    });
  }

  /** A slot goes to the longest waiting caller. */
  function leave(): void {
    const [next] = waiting;
    if (next) next();
    else free++;
  }

  return async (callerId, { prepare, work }) => {
    const own = ofCaller.get(callerId) ?? 0;
    if (own >= perCaller) throw limited(`At most ${perCaller} formulas of a caller run at once.`, perCaller);
    ofCaller.set(callerId, own + 1);
    try {
      const prepared = await prepare();
      await place();
      try {
        return await work(prepared);
      } finally {
        leave();
      }
    } finally {
      const left = ofCaller.get(callerId)! - 1;
      if (left > 0) ofCaller.set(callerId, left);
      else ofCaller.delete(callerId);
    }
  };
}

const limited = (message: string, limit: number) =>
  new TallyError('RATE_LIMITED', message, { details: { limit, retryAfter: 1 } });
