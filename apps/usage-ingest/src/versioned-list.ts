import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { coalesce, type RedisClient, within } from '@tally/service';
import type { Result } from 'ioredis';
import { z } from 'zod';
import { lua } from './counters/lua.ts';

/** `n`, or `n/m` where two counters make the version; both only rise. */
type Versioned = { version: string };

export type VersionedList<List> = {
  /** The newest list that this process knows; undefined without one. */
  current(): List | undefined;
  /** Loads the list if it has changed. Rejects if Postgres is unavailable and Redis has no newer one. */
  refresh(): Promise<void>;
  /** Takes a newer list from Redis, unless this process looked within `FRESH_MS`. Never rejects. */
  freshen(): Promise<void>;
};

/** After `freshen`, a list is at most this much older than its copy in Redis, unless Redis is unavailable. */
export const FRESH_MS = 100;

/** A Redis that hangs is waited for this long. */
const PATIENCE_MS = 500;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    publishList(
      ...named: [key: string, parts: string, version: string, copy: string, replaced: string]
    ): Result<number, Context>;
  }
}

/** Items that are written or read at once: some milliseconds, and some 300 KB in Redis. */
const ITEMS_AT_ONCE = 1_000;

/** Parts that no copy names are removed after this time: those of a process that died, and replaced ones. */
const LOOSE_SECONDS = 600;

/** What the key of a long list has in place of it. */
const Head = z.object({ version: z.string(), parts: z.object({ id: z.string(), count: z.number() }) });

/** Longer than the start of every copy, up to the end of its version. */
const HEAD_BYTES = 80;

/**
 * A list of Postgres as one process knows it. A process that loads a version copies it to Redis, so that others learn of
 * it also while Postgres is unavailable. A long list is copied in parts: a command of tens of megabytes makes all others
 * of Redis wait, and takes longer than a busy connection may be silent.
 */
export function createVersionedList<Stored extends Versioned, List extends Versioned>(options: {
  redis: RedisClient;
  /** The key of the copy in Redis. */
  key: string;
  copy: z.ZodType<Stored> & z.ZodObject;
  store: { version(): Promise<string>; load(): Promise<Stored> };
  /** Makes the list ready for use. */
  prepare(stored: Stored): List | Promise<List>;
  /** Returns true if the list must be loaded again although its version is the newest. */
  isOver?(list: List): boolean;
}): VersionedList<List> {
  const { redis, key, store, isOver } = options;
  redis.defineCommand('publishList', { numberOfKeys: 2, lua: lua('publish-list') });
  const later = options.copy.partial();
  /** In the slot of the copy, so that one script changes both. */
  const partsOf = (id: string) => `{${key}}:${id}`;
  let list: List | undefined;
  let look: { began: number; ended: Promise<unknown> } | undefined;
  let reading: { version: string; isUsed: Promise<boolean> } | undefined;

  async function versionOfCopy(): Promise<string | undefined> {
    const head = await redis.getrange(key, 0, HEAD_BYTES - 1);
    return /^\{"version":"([^"]+)"/.exec(head)?.[1];
  }

  /** Uses the copy if it is newer; returns whether it is. Looks at one version share its reading. */
  async function useCopy(): Promise<boolean> {
    const version = await versionOfCopy();
    if (version === undefined || (list !== undefined && !isNewer({ version }, list))) return false;
    if (reading?.version === version) return reading.isUsed;
    const mine = { version, isUsed: readCopy().then((stored) => stored !== undefined && use(stored)) };
    reading = mine;
    try {
      return await mine.isUsed;
    } finally {
      if (reading === mine) reading = undefined;
    }
  }

  /** Reads the copy; undefined if there is none, or no longer all of it. */
  async function readCopy(): Promise<Stored | undefined> {
    const text = await redis.get(key);
    if (text === null) return undefined;
    const first: unknown = JSON.parse(text);
    const { success, data: head } = Head.safeParse(first);
    if (!success) return options.copy.parse(first);
    let stored: Stored | undefined;
    for (let part = 0; part < head.parts.count; part++) {
      const own = await redis.hget(partsOf(head.parts.id), String(part));
      if (own === null) return undefined;
      await nextTurn();
      if (!stored) stored = options.copy.parse(JSON.parse(own)) as Stored;
      else addTo(stored, later.parse(JSON.parse(own)));
    }
    return stored;
  }

  /** Copies a list to Redis, unless there is a newer version than before it was loaded. */
  async function publish({ version }: Stored, parts: AsyncIterable<string>, replaced: string): Promise<void> {
    const id = randomUUID();
    let count = 0;
    let first = '';
    const write = async (part: string) => {
      await redis.hset(partsOf(id), String(count++), part);
      await redis.expire(partsOf(id), LOOSE_SECONDS);
    };
    for await (const part of parts) {
      if (first === '') first = part;
      else {
        if (count === 0) await write(first);
        await write(part);
      }
    }
    const copy = count === 0 ? first : JSON.stringify({ version, parts: { id, count } });
    await redis.publishList(key, partsOf(id), version, copy, replaced);
  }

  /** Makes a list ready and uses it, unless a newer one came meanwhile; returns whether it is used. */
  async function use(stored: Stored, known?: List): Promise<boolean> {
    const mayUse = () => list === undefined || list === known || !isNewer(list, stored);
    if (!mayUse()) return false;
    const ready = await options.prepare(stored);
    if (!mayUse()) return false;
    list = ready;
    return true;
  }

  const refresh = coalesce(async () => {
    // Read before Postgres, so a version that is newer than that of Postgres is none of its versions: it was restored.
    const known = list;
    const copied = await versionOfCopy().catch(() => known?.version);
    const version = await store.version();
    if (version === known?.version && version === copied && !isOver?.(known)) return;
    const stored = await store.load();
    await use(stored, known);
    // The copy of another process serves, unless lists end: then it may have been made before this one.
    const now = await versionOfCopy().catch(() => undefined);
    if (now === stored.version && (isOver === undefined || copied !== now)) return;
    await publish(stored, textsOf(stored), copied ?? '').catch(() => {});
  });

  return {
    current: () => list,
    refresh: () =>
      refresh().catch(async (error: unknown) => {
        if (!(await useCopy().catch(() => false))) throw error;
      }),
    async freshen() {
      const now = performance.now();
      if (look === undefined || now - look.began > FRESH_MS)
        look = { began: now, ended: within(PATIENCE_MS, useCopy()).catch(() => {}) };
      await look.ended;
    },
  };
}

/**
 * Returns the JSON of a list, its version first, in parts of at most `ITEMS_AT_ONCE` items of each array. Others have
 * their turn between them.
 */
async function* textsOf({ version, ...rest }: Versioned): AsyncGenerator<string> {
  const fields = Object.entries<unknown>(rest);
  const length = Math.max(1, ...fields.map(([, value]) => (Array.isArray(value) ? value.length : 0)));
  for (let at = 0; at < length; at += ITEMS_AT_ONCE) {
    const own = fields.flatMap(([name, value]): [string, unknown][] => {
      if (!Array.isArray(value)) return at === 0 ? [[name, value]] : [];
      return at === 0 || at < value.length ? [[name, value.slice(at, at + ITEMS_AT_ONCE)]] : [];
    });
    yield JSON.stringify({ version, ...Object.fromEntries(own) });
    await nextTurn();
  }
}

/** Adds the items of a later part to the arrays of the first ones. */
function addTo(stored: Record<string, unknown>, part: Record<string, unknown>): void {
  for (const [name, items] of Object.entries(part)) {
    const known = stored[name];
    if (Array.isArray(known) && Array.isArray(items)) for (const item of items) known.push(item);
  }
}

function isNewer(one: Versioned, other: Versioned): boolean {
  const [[a, b], [c, d]] = [numbersOf(one), numbersOf(other)];
  return a === c ? b > d : a > c;
}

function numbersOf({ version }: Versioned): [bigint, bigint] {
  const [first = '0', second = '0'] = version.split('/');
  return [BigInt(first), BigInt(second)];
}
