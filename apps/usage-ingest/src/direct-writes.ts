/**
 * Knows the merchants whose events lately went directly to Postgres: until their totals in Redis are repaired, or
 * distrusted by all readers, those are too low. They are those that this process wrote, and all while Redis refuses writes.
 */
export type DirectWrites = {
  /** Runs a write of events of these merchants. */
  track<T>(merchantIds: ReadonlySet<string>, write: () => Promise<T>): Promise<T>;
  /**
   * Says that Redis refuses writes now: other processes may write any merchant's events directly, and nobody can mark
   * its totals in Redis.
   */
  redisRefusesWrites(): void;
  /** Whether totals of the merchant may be too low. */
  mayBeBehind(merchantId: string): boolean;
  /** Says that all totals are repaired that were known to be stale at this moment, by the same clock. */
  settled(since: number): void;
};

/** Long enough for all readers to distrust the totals. A write that failed may still be committed for so long. */
const BEHIND_MS = 60_000;
/** From this many merchants on, expired ones are removed. */
const MAX_MERCHANTS = 100_000;

type Writes = { underWay: number; lastAt: number; failedAt: number };

/** `clock` returns milliseconds and never goes back. */
export function createDirectWrites(clock: () => number): DirectWrites {
  const known = new Map<string, Writes>();
  let refusedAt = Number.NEGATIVE_INFINITY;
  const isRecent = (at: number) => clock() - at < BEHIND_MS;

  function begin(merchantId: string): Writes {
    const writes = known.get(merchantId) ?? { underWay: 0, lastAt: 0, failedAt: Number.NEGATIVE_INFINITY };
    known.set(merchantId, writes);
    writes.underWay++;
    return writes;
  }

  function forgetExpired(): void {
    for (const [merchantId, { underWay, lastAt }] of known)
      if (underWay === 0 && !isRecent(lastAt)) known.delete(merchantId);
  }

  return {
    async track(merchantIds, write) {
      const all = [...merchantIds].map(begin);
      let hasFailed = true;
      try {
        const result = await write();
        hasFailed = false;
        return result;
      } finally {
        const endedAt = clock();
        for (const writes of all) {
          writes.underWay--;
          writes.lastAt = endedAt;
          if (hasFailed) writes.failedAt = endedAt;
        }
        if (known.size > MAX_MERCHANTS) forgetExpired();
      }
    },
    redisRefusesWrites() {
      refusedAt = clock();
    },
    mayBeBehind(merchantId) {
      if (isRecent(refusedAt)) return true;
      const writes = known.get(merchantId);
      return writes !== undefined && (writes.underWay > 0 || isRecent(writes.lastAt));
    },
    settled(since) {
      for (const [merchantId, { underWay, lastAt, failedAt }] of known)
        if (underWay === 0 && lastAt < since && !isRecent(failedAt)) known.delete(merchantId);
    },
  };
}
