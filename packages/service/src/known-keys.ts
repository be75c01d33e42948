import { type ApiKey, TallyError } from '@tally/contracts';
import { createFailedLookups } from './failed-lookups.ts';
import type { KeyMirror } from './key-mirror.ts';
import { within } from './within.ts';

/** The facts about a key that decide what its caller may do. */
export type KnownKey = Pick<ApiKey, 'id' | 'role' | 'merchantId' | 'teamId' | 'expiresAt'> & {
  /** Set where a session was shown: the other facts are those of the key it stands for. */
  sessionId?: string;
  /** Set for a session of a key of the settings: the hash of that key's secret. */
  settingsHash?: string;
};

export type KnownKeysOptions = {
  /** Finds a key that is not revoked by the SHA-256 of its secret, in hex. */
  find(hash: string): Promise<KnownKey | undefined>;
  /** Copies of keys outside of the database, for a process that starts without it. */
  mirror?: KeyMirror | undefined;
  /** Unknown keys that one address may send within a minute. */
  failuresPerMinute: number;
  now: () => number;
};

/** A known key is looked up again after this long, so every process refuses a revoked key within a second. */
const FRESH_MS = 1_000;
/** An unknown key is looked up again after this long. */
const UNKNOWN_FRESH_MS = 10_000;
/** A known key works for this long while the database is unavailable: metering must not stop with Postgres. */
const STALE_MS = 60 * 60_000;
/** How often the copy of a key in use is kept again. */
const MIRROR_MS = 60_000;
/** A known key waits this long for a slow database, then keeps its last answer. */
const PATIENCE_MS = 250;
/** A key that is neither known nor mirrored waits this long, then gets UNAVAILABLE. */
const DEADLINE_MS = 5_000;
const MAX_KNOWN = 10_000;
const MAX_UNKNOWN = 1_000;
/** First lookups at once, so that a flood of made-up keys never takes all connections to Postgres. */
const FIRST_LOOKUPS = 4;
const MAX_WAITING = 1_000;

type Known = { key: KnownKey; checkedAt: number; triedAt: number; mirroredAt: number };
type Outcome = { key: KnownKey | undefined } | { error: unknown };
type Lookup = { outcome: Promise<Outcome>; patience: Promise<undefined> };

/**
 * Returns a function that finds the key with a hash; undefined for an unknown or revoked one. Answers are cached: known keys
 * and unknown keys apart, so that a flood of made-up keys evicts none that works. Throws RATE_LIMITED for a key that is not
 * cached and comes from an address that sent too many unknown ones, UNAVAILABLE where the database is needed and unavailable.
 * A key that is not cached is looked up in the mirror where the database fails, or takes longer than `PATIENCE_MS`.
 */
export function createKnownKeys({ find, mirror, failuresPerMinute, now }: KnownKeysOptions) {
  const known = new Map<string, Known>();
  const unknown = new Map<string, number>();
  const running = new Map<string, Lookup>();
  const failed = createFailedLookups({ limit: failuresPerMinute, now });
  const turns = createTurns(FIRST_LOOKUPS);
  /** When a lookup last failed or took too long. */
  let troubledAt = Number.NEGATIVE_INFINITY;

  /** Looks a key up once, however many callers ask at the same time. */
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
    // Deleted first, so that what was looked up last is evicted last.
    known.delete(hash);
    unknown.delete(hash);
    if (key) {
      const isMirrored = before !== undefined && now() - before.mirroredAt < MIRROR_MS;
      const mirroredAt = isMirrored ? before.mirroredAt : now();
      put(known, hash, { key, checkedAt: now(), triedAt: now(), mirroredAt }, MAX_KNOWN);
      if (!isMirrored) void mirror?.keep(hash, key, asked).catch(() => {});
    } else {
      put(unknown, hash, now(), MAX_UNKNOWN);
      failed.count(address);
      if (before) void mirror?.drop(hash).catch(() => {});
    }
  }

  async function findCopy(hash: string): Promise<KnownKey | undefined> {
    const copy = await mirror?.find(hash).catch(() => undefined);
    if (!copy || now() - copy.at >= STALE_MS) return undefined;
    put(known, hash, { key: copy.key, checkedAt: copy.at, triedAt: now(), mirroredAt: now() }, MAX_KNOWN);
    return copy.key;
  }

  const isUnknown = (hash: string) => now() - (unknown.get(hash) ?? Number.NEGATIVE_INFINITY) < UNKNOWN_FRESH_MS;

  async function findFirst(hash: string, address: string): Promise<KnownKey | undefined> {
    failed.assertBelowLimit(address);
    // While the database has trouble, callers of a process that has just started would otherwise wait for a turn each.
    const copy = now() - troubledAt < FRESH_MS ? await findCopy(hash) : undefined;
    if (copy) return copy;
    return turns.run(async () => {
      // Others may have answered for this key, or for its address, while it waited.
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
    if (now() - cached.triedAt < FRESH_MS) return cached.key;
    const lookup = lookUp(hash, address);
    const outcome = await Promise.race([lookup.outcome, lookup.patience]);
    if (outcome && 'key' in outcome) return outcome.key;
    return now() - cached.checkedAt < STALE_MS ? cached.key : answerOf(await lookup.outcome);
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

/** Runs at most `size` pieces of work at once; the others wait, in order, for at most DEADLINE_MS. */
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
