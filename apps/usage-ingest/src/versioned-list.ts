import { setImmediate as nextTurn } from 'node:timers/promises';
import { coalesce, type RedisClient, within } from '@tally/service';
import type { Result } from 'ioredis';
import type { z } from 'zod';
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
    publishList(key: string, version: string, copy: Buffer, replaced: string): Result<number, Context>;
  }
}

/** Items that are written at once: some milliseconds. */
const ITEMS_AT_ONCE = 1_000;

/** Longer than the start of every copy, up to the end of its version. */
const HEAD_BYTES = 80;

/**
 * A list of Postgres as one process knows it. A process that loads a version copies it to Redis, so that others learn of
 * it also while Postgres is unavailable.
 */
export function createVersionedList<Stored extends Versioned, List extends Versioned>(options: {
  redis: RedisClient;
  /** The key of the copy in Redis. */
  key: string;
  copy: z.ZodType<Stored>;
  store: { version(): Promise<string>; load(): Promise<Stored> };
  /** Makes the list ready for use. */
  prepare(stored: Stored): List | Promise<List>;
  /** Returns true if the list must be loaded again although its version is the newest. */
  isOver?(list: List): boolean;
}): VersionedList<List> {
  const { redis, key, store, isOver = () => false } = options;
  redis.defineCommand('publishList', { numberOfKeys: 1, lua: lua('publish-list') });
  let list: List | undefined;
  let look: { began: number; ended: Promise<unknown> } | undefined;

  async function versionOfCopy(): Promise<string | undefined> {
    const head = await redis.getrange(key, 0, HEAD_BYTES - 1);
    return /^\{"version":"([^"]+)"/.exec(head)?.[1];
  }

  /** Uses the copy if it is newer; returns whether it is. */
  async function useCopy(): Promise<boolean> {
    const version = await versionOfCopy();
    if (version === undefined || (list !== undefined && !isNewer({ version }, list))) return false;
    const text = await redis.get(key);
    const stored = text === null ? undefined : options.copy.parse(JSON.parse(text));
    return stored !== undefined && use(stored);
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
    if (version === known?.version && version === copied && !isOver(known)) return;
    const stored = await store.load();
    await use(stored, known);
    await redis.publishList(key, stored.version, await bytesOf(stored), copied ?? '').catch(() => {});
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

/** Returns the JSON of a list, its version first. Others have their turn while it writes long arrays. */
async function bytesOf({ version, ...rest }: Versioned): Promise<Buffer> {
  const parts = [Buffer.from(`{"version":${JSON.stringify(version)}`)];
  const write = (text: string) => parts.push(Buffer.from(text));
  for (const [name, value] of Object.entries<unknown>(rest)) {
    write(`,${JSON.stringify(name)}:`);
    if (!Array.isArray(value) || value.length === 0) {
      write(JSON.stringify(value));
      continue;
    }
    for (let at = 0; at < value.length; at += ITEMS_AT_ONCE) {
      write((at === 0 ? '[' : ',') + JSON.stringify(value.slice(at, at + ITEMS_AT_ONCE)).slice(1, -1));
      await nextTurn();
    }
    write(']');
  }
  return Buffer.concat([...parts, Buffer.from('}')]);
}

function isNewer(one: Versioned, other: Versioned): boolean {
  const [[a, b], [c, d]] = [numbersOf(one), numbersOf(other)];
  return a === c ? b > d : a > c;
}

function numbersOf({ version }: Versioned): [bigint, bigint] {
  const [first = '0', second = '0'] = version.split('/');
  return [BigInt(first), BigInt(second)];
}
