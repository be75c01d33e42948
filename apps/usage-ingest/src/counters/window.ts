import { HOUR_MS } from '@tally/contracts';
import { mastersOf, piecesOf, type RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import type { RedisKeys } from './keys.ts';
import { lua } from './lua.ts';

/** Older event ids are not needed: the journal knows them. */
export const MAX_AGE_MS = 48 * HOUR_MS;
export const MAX_GENERATIONS = 16;
/** A quiet shard has half of its generations when its oldest ids are too old; the others are for busy hours. */
export const CUT_AGE_MS = (2 * MAX_AGE_MS) / MAX_GENERATIONS;

/** Measured memory of one id: a UUID with a merchant id of ten characters. */
const BYTES_PER_ID = 128;
const CUT_SIZE = { first: 5_000, min: 1 };
/** A call for all shards would block other calls of Redis for some milliseconds. */
const SHARDS_AT_ONCE = 8;

export type WindowReport = {
  /** Memory of all event ids, and its limit. */
  bytes: number;
  budget: number;
  /** How long Redis recognises a repeat, in milliseconds; 0 while there are no ids. */
  windowMs: number;
  /** Generations dropped for memory by this run. */
  dropped: number;
};

export type DeduplicationWindow = {
  /** The number of ids after which a shard starts another generation. */
  cutSize(): number;
  /** Measures the ids of all shards; drops the oldest generations of all shards while they exceed the budget. */
  look(): Promise<WindowReport>;
  /** Drops all ids, also those of pending events: a repeat is then found by the journal only. */
  forget(): Promise<void>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    usageWindow(numberOfKeys: number, ...keysAndArgs: string[]): Result<[string, ...(string | number)[][]], Context>;
  }
}

type Generation = { shard: number; name: string; bytes: number; ids: number; mayGo: boolean };

/**
 * Limits the memory of event ids: one budget for all shards, a share of Redis' memory. Ids of pending events stay, so
 * that repeats do not fill the journal streams; the journal finds repeats of dropped ids.
 */
export function createDeduplicationWindow(
  redis: RedisClient,
  keys: RedisKeys,
  memoryShare: number,
): DeduplicationWindow {
  redis.defineCommand('usageWindow', { lua: lua('window') });
  let cutSize = CUT_SIZE.first;

  async function windowsOf(shards: readonly number[], drop = '') {
    const own = shards.flatMap((shard) => [keys.journal(shard), keys.window(shard), keys.windowEnds(shard)]);
    const ids = shards.flatMap((shard) => [keys.ids(shard).prefix, keys.ids(shard).suffix]);
    const [now, ...windows] = await redis.usageWindow(own.length, ...own, drop, ...ids);
    return windows.map(([since, ...fields], place) => {
      const generations: Generation[] = [];
      for (let at = 0; at < fields.length; at += 4) {
        const [name, bytes, ids, mayGo] = fields.slice(at, at + 4);
        const shard = shards[place]!;
        generations.push({ shard, name: String(name), bytes: Number(bytes), ids: Number(ids), mayGo: mayGo === 1 });
      }
      return { now: Number(now), since: Number(since), generations };
    });
  }
  const windowOf = async (shard: number, drop: string) => (await windowsOf([shard], drop))[0]!;

  async function allWindows() {
    const shards = Array.from({ length: keys.shards }, (_, shard) => shard);
    const calls = piecesOf(shards, keys.clustered ? 1 : SHARDS_AT_ONCE);
    return (await Promise.all(calls.map((some) => windowsOf(some)))).flat();
  }

  async function budgetNow(): Promise<number> {
    const infos = await Promise.all(mastersOf(redis).map((node) => node.info('memory')));
    const limits = infos.map((info) => fact(info, 'maxmemory') || fact(info, 'total_system_memory'));
    return memoryShare * limits.reduce((sum, limit) => sum + limit, 0);
  }

  return {
    cutSize: () => cutSize,
    async look() {
      const budget = await budgetNow();
      cutSize = Math.max(CUT_SIZE.min, Math.floor(budget / (keys.shards * MAX_GENERATIONS * BYTES_PER_ID)));
      const shards = await allWindows();
      const all = shards.map(({ generations }) => generations);
      let bytes = all.flat().reduce((sum, each) => sum + each.bytes, 0);
      let dropped = 0;
      let since = Math.max(...shards.map((shard) => shard.since));
      while (bytes > budget) {
        const [oldest] = all
          .flatMap(([first]) => (first?.mayGo ? [first] : []))
          .sort((a, b) => Number(a.name) - Number(b.name));
        if (!oldest) break;
        const left = await windowOf(oldest.shard, oldest.name);
        if (left.generations.some(({ name }) => name === oldest.name)) break;
        all[oldest.shard] = left.generations;
        since = Math.max(since, left.since);
        bytes -= oldest.bytes;
        dropped++;
      }
      const oldest = Math.min(...all.flat().map(({ name }) => Number(name)));
      const from = since > 0 ? since : oldest;
      const now = Math.max(...shards.map((shard) => shard.now));
      return { bytes, budget, windowMs: Number.isFinite(from) ? now - from : 0, dropped };
    },
    async forget() {
      for (let shard = 0; shard < keys.shards; shard++) await windowOf(shard, 'all');
    },
  };
}

const fact = (info: string, name: string) => Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0);
