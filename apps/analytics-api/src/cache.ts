import { hash } from 'node:crypto';
import { addDays, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';
import { CACHED_ANSWERS, coalesceBy, type FairQueue, type RedisClient, readyJson, textOfReady } from '@tally/service';

export type CacheScope = { merchantIds?: readonly string[] | undefined; startDate: Day; endDate: Day };

/** A query whose answer is cached. */
export type CacheQuery = {
  kind: string;
  /** All that the answer depends on, beside what `scope` has counted. */
  question: unknown;
  scope: CacheScope;
  /** Who asks; without a caller it is computed at once. */
  callerId?: string;
};

export type CacheStats = {
  memoryHits: number;
  redisHits: number;
  misses: number;
  joined: number;
  errors: number;
  hitRate: number | null;
  memoryEntries: number;
  memoryBytes: number;
};

/** Returns an answer as its JSON: the cached part, then `more`, which belongs to this call. */
export const finished = <Answer>(text: string, more: object): Answer =>
  readyJson(text.slice(0, -1), `,${JSON.stringify(more).slice(1)}`);

/** Returns the object of an answer that may be kept as its JSON. */
export function opened<Answer>(answer: Answer): Answer {
  const text = textOfReady(answer);
  return text === undefined ? answer : (JSON.parse(text) as Answer);
}

export type Cache = {
  /**
   * Returns the answer to a query over counted events: cached, shared with a running computation, or computed. Its key
   * contains the version of the merchants and days of `scope`, read after the query arrived: no answer is older than
   * any commit before the call. `compute` must depend only on the query, the sums of these days and the names of the
   * directory, and return plain JSON. It runs when a caller who asks for it has its turn.
   */
  through<T>(query: CacheQuery, compute: () => Promise<T>): Promise<T>;
  /**
   * The same for an answer of which a part is sent unchanged: that part is cached as its JSON, and only `more`, which
   * is needed to finish the answer, is parsed again.
   */
  sent<More>(
    query: CacheQuery,
    compute: () => Promise<{ sent: object; more: More }>,
  ): Promise<{ text: string; more: More }>;
  /** Caches an answer by its query only, at most once a minute: for when nothing better is available. */
  remember(kind: string, question: unknown, answer: unknown): void;
  recall<T>(kind: string, question: unknown): Promise<T | undefined>;
  stats(): CacheStats;
  /** Drops the answers about some merchants and days, in every process. */
  invalidate(scope: CacheScope & { merchantIds: readonly string[] }): Promise<number>;
  /** Drops all answers, in every process. */
  clear(): Promise<void>;
};

export type CacheOptions = {
  /** Undefined: nothing is cached, every query is computed. */
  redis: RedisClient | undefined;
  changes: Db['changes'];
  /** The queue of computations. */
  queue: FairQueue;
  now: () => number;
};

const MINUTE = 60;
/** Versions already keep answers correct; these limit how long an unreachable answer takes memory. */
const TTL_SECONDS = { short: 5 * MINUTE, default: 60 * MINUTE, long: 24 * 60 * MINUTE };
/** The interval at which the same query's answer is remembered again. */
const REMEMBER_SECONDS = MINUTE;
/** Events dated up to this many days back arrive through the normal path. */
const SETTLED_DAYS = 7;
/** Raise it whenever cached answers, or what versions count, change: another release may have cached them. */
const SHAPE = 5;
/** A larger answer is cheaper to compute again than to transfer. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
/** Answers held in this process. */
const MEMORY_BYTES = 64 * 1024 * 1024;

/**
 * A cache in front of Postgres with two tiers: this process and Redis. While Redis is unavailable: only the process.
 */
export function createCache({ redis, changes, queue, now }: CacheOptions): Cache {
  const memory = createMemory(MEMORY_BYTES, now);
  /** Answers that are looked up or computed, and how many calls wait for each. */
  const underWay = new Map<
    string,
    { stored: Promise<string | null>; answer: ReturnType<typeof createTurns>; callers: number }
  >();
  /** Read after each query arrived, and shared by concurrent queries. */
  const versionOf = coalesceBy((scope: CacheScope) => changes.versionOf(scope));
  const counts = { memoryHits: 0, redisHits: 0, misses: 0, joined: 0, errors: 0 };

  async function fromRedis(key: string): Promise<string | null> {
    try {
      return (await redis?.get(key)) ?? null;
    } catch {
      counts.errors++;
      return null;
    }
  }

  async function find(key: string, ttlSeconds: number): Promise<string | null> {
    const stored = await fromRedis(key);
    if (stored === null) return null;
    counts.redisHits++;
    memory.set(key, stored, ttlSeconds);
    return stored;
  }

  async function computed(key: string, ttlSeconds: number, compute: () => Promise<string>): Promise<string> {
    counts.misses++;
    const text = await compute();
    if (text.length > MAX_ANSWER_BYTES) return text;
    memory.set(key, text, ttlSeconds);
    // Nobody waits for it: an answer that is not cached is computed again.
    redis?.set(key, text, 'EX', ttlSeconds).catch(() => counts.errors++);
    return text;
  }

  /** Returns the text of the answer to a query: cached, shared, or computed in the caller's turn. */
  async function textOf({ kind, question, scope, callerId }: CacheQuery, compute: () => Promise<string>) {
    const { merchantIds, startDate, endDate } = scope;
    if (!redis) return callerId === undefined ? compute() : queue(callerId, compute);
    const version = await versionOf({ merchantIds, startDate, endDate });
    const key = `${CACHED_ANSWERS}:${kind}:${startDate}..${endDate}:${version}:${digest(question)}`;
    const kept = memory.get(key);
    if (kept !== undefined) {
      counts.memoryHits++;
      return kept;
    }
    const joined = underWay.get(key);
    if (joined) counts.joined++;
    const ttlSeconds = ttlOf(endDate, dayOf(now()));
    const shared = joined ?? {
      stored: find(key, ttlSeconds),
      answer: createTurns(() => computed(key, ttlSeconds, compute), queue),
      callers: 0,
    };
    if (!joined) underWay.set(key, shared);
    shared.callers++;
    try {
      return (await shared.stored) ?? (await shared.answer(callerId));
    } finally {
      shared.callers--;
      if (shared.callers === 0) underWay.delete(key);
    }
  }

  return {
    async through<T>(query: CacheQuery, compute: () => Promise<T>) {
      return JSON.parse(await textOf(query, async () => JSON.stringify(await compute()))) as T;
    },
    async sent<More>(query: CacheQuery, compute: () => Promise<{ sent: object; more: More }>) {
      const inParts = async () => {
        const { sent, more } = await compute();
        // Compact JSON has no line ends, so one can separate the parts.
        return `${JSON.stringify(more)}\n${textOfReady(sent) ?? JSON.stringify(sent)}`;
      };
      const both = await textOf(query, inParts);
      const end = both.indexOf('\n');
      return { text: both.slice(end + 1), more: JSON.parse(both.slice(0, end)) as More };
    },
    remember(kind, question, answer) {
      if (!redis) return;
      const key = rememberedKey(kind, question);
      const lately = `${key}:lately`;
      if (memory.get(lately) !== undefined) return;
      memory.set(lately, '', REMEMBER_SECONDS);
      const text = textOfReady(answer) ?? JSON.stringify(answer);
      if (text.length > MAX_ANSWER_BYTES) return;
      memory.set(key, text, TTL_SECONDS.long);
      redis.set(key, text, 'EX', TTL_SECONDS.long).catch(() => counts.errors++);
    },
    async recall<T>(kind: string, question: unknown) {
      const key = rememberedKey(kind, question);
      const text = memory.get(key) ?? (await fromRedis(key));
      return text === null ? undefined : (JSON.parse(text) as T);
    },
    stats() {
      const hits = counts.memoryHits + counts.redisHits + counts.joined;
      const asked = hits + counts.misses;
      return {
        ...counts,
        hitRate: asked === 0 ? null : Math.round((hits / asked) * 10_000) / 10_000,
        memoryEntries: memory.size,
        memoryBytes: memory.bytes,
      };
    },
    invalidate: (scope) => changes.touch(scope),
    async clear() {
      memory.clear();
      await changes.touchAll();
    },
  };
}

/**
 * Returns how callers get an answer that is computed once: in the first turn that one of them has, so that nobody waits
 * in the line of another caller. Without a caller it is computed at once. Rejects only the caller that the queue
 * refuses, or all of them with the error of the computation.
 */
function createTurns(compute: () => Promise<string>, queue: FairQueue) {
  let begun: Promise<string> | undefined;
  let begin = () => {};
  const answer = new Promise<void>((resolve) => {
    begin = resolve;
  }).then(() => {
    begun ??= compute();
    return begun;
  });
  const turns = new Map<string, Promise<unknown>>();

  return (callerId: string | undefined): Promise<string> => {
    if (callerId === undefined) begin();
    if (callerId === undefined || begun) return answer;
    let turn = turns.get(callerId);
    if (!turn) {
      turn = queue(callerId, async () => {
        if (begun) return;
        begin();
        await answer;
      });
      turns.set(callerId, turn);
      turn.catch(() => turns.delete(callerId));
    }
    return Promise.race([answer, turn.then(() => answer)]);
  };
}

function ttlOf(endDate: Day, today: Day): number {
  if (endDate >= today) return TTL_SECONDS.short;
  return endDate >= addDays(today, -SETTLED_DAYS) ? TTL_SECONDS.default : TTL_SECONDS.long;
}

const rememberedKey = (kind: string, question: unknown) => `${CACHED_ANSWERS}:${kind}:remembered:${digest(question)}`;

const digest = (question: unknown) => hash('sha256', JSON.stringify([SHAPE, question]), 'base64url');

/** Answers as text; evicts the least recently used first. */
function createMemory(maxBytes: number, now: () => number) {
  const kept = new Map<string, { text: string; until: number }>();
  let bytes = 0;
  const sizeOf = (key: string, text: string) => 2 * (key.length + text.length);
  const drop = (key: string) => {
    const entry = kept.get(key);
    if (!entry) return;
    bytes -= sizeOf(key, entry.text);
    kept.delete(key);
  };
  return {
    get size() {
      return kept.size;
    },
    get bytes() {
      return bytes;
    },
    get(key: string): string | undefined {
      const entry = kept.get(key);
      if (!entry) return undefined;
      drop(key);
      if (entry.until <= now()) return undefined;
      this.put(key, entry);
      return entry.text;
    },
    put(key: string, entry: { text: string; until: number }) {
      kept.set(key, entry);
      bytes += sizeOf(key, entry.text);
    },
    set(key: string, text: string, ttlSeconds: number) {
      drop(key);
      this.put(key, { text, until: now() + ttlSeconds * 1000 });
      while (bytes > maxBytes) drop(kept.keys().next().value!);
    },
    clear() {
      kept.clear();
      bytes = 0;
    },
  };
}
