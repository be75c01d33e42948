import { type ApiKey, TallyError } from '@tally/contracts';
import { within } from '../within.ts';
import { createFailedLookups } from './failed-lookups.ts';

/** The facts about a key that decide what its caller may do. */
export type KnownKey = Pick<ApiKey, 'id' | 'role' | 'merchantId' | 'teamId' | 'expiresAt'> & {
  /** Set if a session was presented: the other facts are those of its key. */
  sessionId?: string;
  /** Set for a session of a key from the settings: the hash of that key's secret. */
  settingsHash?: string;
};

/** Copies of keys beside Postgres. */
export type KeyMirror = {
  /** Returns the copy of the key with this hash and its age; undefined without a usable copy. */
  find(hash: string): Promise<{ key: KnownKey; ageMs: number } | undefined>;
  /** Stores a copy of what Postgres was asked so long ago. */
  keep(hash: string, key: KnownKey, ageMs: number): Promise<void>;
  /** Removes the copy of a key that Postgres no longer has. */
  drop(hash: string): Promise<void>;
};

export type KnownKeysOptions = {
  /** Finds a key that is not revoked by the SHA-256 of its secret, in hex. */
  find(hash: string): Promise<KnownKey | undefined>;
  /** Copies of keys outside of the database, for a process that starts without it. */
  mirror?: KeyMirror | undefined;
  /** The unknown keys that one address may send within a minute. */
  failuresPerMinute: number;
  now: () => number;
};

/** A known key is looked up again after this time, so every process refuses a revoked key within a second. */
const FRESH_MS = 1_000;
/** An unknown key is looked up again after this time. */
const UNKNOWN_FRESH_MS = 10_000;
/** A known key works for this long while the database is unavailable: metering must not stop with Postgres. */
const STALE_MS = 60 * 60_000;
/** The interval at which the copy of a key in use is renewed. */
const MIRROR_MS = 60_000;
/** For a known key, a slow database gets this long; then the last answer holds. */
const PATIENCE_MS = 250;
/** For a key that is neither known nor mirrored, the lookup may take this long; then it is UNAVAILABLE. */
const DEADLINE_MS = 5_000;
/** More keys in use are looked up at each call, and copied to the mirror each time: some 30 MB. */
const MAX_KNOWN = 100_000;
const MAX_UNKNOWN = 1_000;
/** Concurrent first lookups, so that a flood of made-up keys never takes all connections to Postgres. */
const FIRST_LOOKUPS = 4;
const MAX_WAITING = 1_000;

type Known = { key: KnownKey; checkedAt: number; triedAt: number; mirroredAt: number };
type Outcome = { key: KnownKey | undefined } | { error: unknown };
type Lookup = { outcome: Promise<Outcome>; patience: Promise<undefined> };

/**
 * Returns a function that finds the key with a hash; undefined for an unknown or revoked one. Caches known and unknown
 * keys separately, so that a flood of made-up keys evicts no working key. Throws RATE_LIMITED for an uncached key from
 * an address that sent too many unknown ones, and UNAVAILABLE if the database is needed and unavailable. Looks an
 * uncached key up in the mirror if the database fails or takes longer than `PATIENCE_MS`.
 */
export function createKnownKeys({ find, mirror, failuresPerMinute, now }: KnownKeysOptions) {
  const known = new Map<string, Known>();
  const unknown = new Map<string, number>();
  const running = new Map<string, Lookup>();
  const failed = createFailedLookups({ limit: failuresPerMinute, now });
  const turns = createTurns(FIRST_LOOKUPS);
  /** Returns whether a moment is so long ago; also if it is ahead, since the clock was then set back. */
  const isPast = (at: number, ms: number) => Math.abs(now() - at) >= ms;
  /** The time at which a lookup last failed or timed out. */
  let troubledAt = Number.NEGATIVE_INFINITY;

  /** Looks a key up once for all concurrent callers. */
  function lookUp(hash: string, address: string): Lookup {
    const already = running.get(hash);
    if (already) return already;
    const asked = now();
    const outcome = within(DEADLINE_MS, find(hash)).then(
      (key): Outcome => {
        running.delete(hash);
        remember(hash, key, address, asked);
        return { key };
      },
      (error: unknown): Outcome => {
        running.delete(hash);
        const cached = known.get(hash);
        if (cached) cached.triedAt = now();
        return { error };
      },
    );
    const lookup = { outcome, patience: after(PATIENCE_MS) };
    running.set(hash, lookup);
    return lookup;
  }

  function remember(hash: string, key: KnownKey | undefined, address: string, asked: number): void {
    const before = known.get(hash);
    // Deleted first, so that the latest lookup is evicted last.
    known.delete(hash);
    unknown.delete(hash);
    if (key) {
      const isMirrored = before !== undefined && !isPast(before.mirroredAt, MIRROR_MS);
      const mirroredAt = isMirrored ? before.mirroredAt : now();
      put(known, hash, { key, checkedAt: now(), triedAt: now(), mirroredAt }, MAX_KNOWN);
      if (!isMirrored) void mirror?.keep(hash, key, Math.max(0, now() - asked)).catch(() => {});
    } else {
      put(unknown, hash, now(), MAX_UNKNOWN);
      failed.count(address);
      if (before) void mirror?.drop(hash).catch(() => {});
    }
  }

  async function findCopy(hash: string): Promise<KnownKey | undefined> {
    const copy = await mirror?.find(hash).catch(() => undefined);
    if (!copy || copy.ageMs >= STALE_MS) return undefined;
    put(known, hash, { key: copy.key, checkedAt: now() - copy.ageMs, triedAt: now(), mirroredAt: now() }, MAX_KNOWN);
    return copy.key;
  }

  const isUnknown = (hash: string) => !isPast(unknown.get(hash) ?? Number.NEGATIVE_INFINITY, UNKNOWN_FRESH_MS);

  async function findFirst(hash: string, address: string): Promise<KnownKey | undefined> {
    failed.assertBelowLimit(address);
    // Otherwise each caller of a process that just started would wait for its turn while the database has trouble.
    const copy = isPast(troubledAt, FRESH_MS) ? undefined : await findCopy(hash);
    if (copy) return copy;
    return turns.run(async () => {
      // Other callers may have looked up this key, or exhausted its address, meanwhile.
      const cached = known.get(hash);
      if (cached) return cached.key;
      if (isUnknown(hash)) return undefined;
      failed.assertBelowLimit(address);
      const lookup = lookUp(hash, address);
      const outcome = await Promise.race([lookup.outcome, lookup.patience]);
      if (outcome && 'key' in outcome) return outcome.key;
      troubledAt = now();
      return (await findCopy(hash)) ?? answerOf(await lookup.outcome);
    });
  }

  return async (hash: string, address: string): Promise<KnownKey | undefined> => {
    const cached = known.get(hash);
    if (!cached) return isUnknown(hash) ? undefined : findFirst(hash, address);
    if (!isPast(cached.triedAt, FRESH_MS)) return cached.key;
    const lookup = lookUp(hash, address);
    const outcome = await Promise.race([lookup.outcome, lookup.patience]);
    if (outcome && 'key' in outcome) return outcome.key;
    return isPast(cached.checkedAt, STALE_MS) ? answerOf(await lookup.outcome) : cached.key;
  };
}

function answerOf(outcome: Outcome): KnownKey | undefined {
  if ('key' in outcome) return outcome.key;
  throw unavailable(outcome.error);
}

function unavailable(cause: unknown): TallyError {
  return new TallyError('UNAVAILABLE', 'This API key cannot be checked now: the database is unavailable.', {
    cause,
    details: { retryAfter: 1 },
  });
}

/** Runs at most `size` tasks at once; the others wait, in order, for at most DEADLINE_MS. */
function createTurns(size: number) {
  const waiting: (() => void)[] = [];
  let taken = 0;
  return {
    async run<T>(work: () => Promise<T>): Promise<T> {
      if (taken < size) taken++;
      else if (waiting.length >= MAX_WAITING) throw unavailable('too many keys wait to be looked up');
      else {
        let begin = () => {};
        const turn = new Promise<void>((resolve) => {
          begin = resolve;
        });
        waiting.push(begin);
        await within(DEADLINE_MS, turn).catch((cause: unknown) => {
          waiting.splice(waiting.indexOf(begin), 1);
          throw unavailable(cause);
        });
      }
      try {
        return await work();
      } finally {
        const next = waiting.shift();
        if (next) next();
        else taken--;
      }
    },
  };
}

function put<V>(map: Map<string, V>, key: string, value: V, max: number): void {
  if (map.size >= max) map.delete(map.keys().next().value!);
  map.set(key, value);
}

const after = (ms: number) =>
  new Promise<undefined>((resolve) => {
    setTimeout(resolve, ms, undefined).unref();
  });
