import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Day, MAX_SUM_UNITS, type Units } from '@tally/contracts';
import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import {
  expiryOf,
  journalKey,
  PENDING,
  parseTotalKey,
  SEEN_SECONDS,
  seenKey,
  seenPeriods,
  totalKey,
  totalsPattern,
  typesKey,
} from './keys.ts';

/** What is stored in one step: entries of one merchant, no identity twice. */
export type MerchantBatch = {
  merchantId: string;
  /** Identity within the merchant, day and id, in the order of `lines`. */
  identities: readonly string[];
  /** The entries as JSON texts of journal lines. */
  lines: readonly string[];
  /** What the entries add to the totals. */
  amounts: readonly Amount[];
};

export type Amount = { date: Day; metricType: string; units: Units };

export type Stored =
  | { outcome: 'stored' }
  /** Nothing was stored; these of the batch (by position) were seen before. */
  | { outcome: 'seen'; positions: number[] }
  /** Nothing was stored; these totals would pass MAX_SUM_UNITS. */
  | { outcome: 'limit'; amounts: Amount[] };

/** An item of a journal stream: a batch as it was stored. */
export type JournalItem = { streamId: string; batchId: string; count: number; lines: string };

export type LiveTotal = { merchantId: string; date: Day; metricType: string; units: Units };

export type Counters = {
  /** Stores a batch, whole or not at all. */
  store(batch: MerchantBatch, now: number): Promise<Stored>;
  /** The totals of a merchant's day by metric type; null where a total does not exist. */
  totals(merchantId: string, date: Day, metricTypes?: readonly string[]): Promise<Map<string, Units>>;
  /** Pages of at most 100 totals of a date, over all merchants, or of one merchant. */
  scanTotals(date: Day, merchantId?: string): AsyncGenerator<LiveTotal[]>;
  /** Merchants that may have something to flush. */
  pendingMerchants(): Promise<string[]>;
  /** The id of the newest item of a merchant's journal; null where it is empty. */
  newestItem(merchantId: string): Promise<string | null>;
  /** The oldest items of a merchant's journal, up to and including `until`. */
  oldestItems(merchantId: string, until: string, limit: number): Promise<JournalItem[]>;
  /** The newest items of a merchant's journal, newest first. */
  newestItems(merchantId: string, limit: number): Promise<JournalItem[]>;
  /** Removes items that were flushed; a merchant without any is no longer pending. */
  remove(merchantId: string, items: readonly JournalItem[]): Promise<void>;
  /** When the oldest item of any of these merchants was stored, in milliseconds; null where nothing waits. */
  oldestItemAt(merchantIds: readonly string[]): Promise<number | null>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    recordBatch(numberOfKeys: number, ...keysAndArgs: string[]): Result<[string, ...number[]], Context>;
    removeFlushed(key: string, ...args: string[]): Result<number, Context>;
  }
}

const LUA_FOLDER = new URL('../../lua/', import.meta.url);
const script = (name: string) => readFileSync(new URL(`${name}.lua`, LUA_FOLDER), 'utf8');

/** All `usage:*` keys: totals, journal streams, seen ids, pending merchants. */
export function createCounters(redis: RedisClient): Counters {
  redis.defineCommand('recordBatch', { lua: script('record-batch') });
  redis.defineCommand('removeFlushed', { numberOfKeys: 1, lua: script('remove-flushed') });

  return {
    async store({ merchantId, identities, lines, amounts }, now) {
      const { current, previous } = seenPeriods(now);
      const keys = [seenKey(merchantId, current), seenKey(merchantId, previous), journalKey(merchantId)];
      const sums: string[] = [];
      for (const { date, metricType, units } of amounts) {
        keys.push(typesKey(merchantId, date), totalKey(merchantId, date, metricType));
        sums.push(metricType, units.toString(), (MAX_SUM_UNITS - units).toString(), String(expiryOf(date)));
      }
      // Pending before stored: a batch that nobody looks for would wait for the hourly sweep.
      const [, answer] = await Promise.all([
        redis.sadd(PENDING, merchantId),
        redis.recordBatch(
          keys.length,
          ...keys,
          String(identities.length),
          String(SEEN_SECONDS),
          randomBytes(12).toString('base64url'),
          `[${lines.join(',')}]`,
          String(lines.length),
          ...identities,
          ...sums,
        ),
      ]);
      const [outcome, ...indexes] = answer;
      if (outcome === 'ok') return { outcome: 'stored' };
      if (outcome === 'seen') return { outcome: 'seen', positions: indexes };
      return { outcome: 'limit', amounts: indexes.map((index) => amounts[index]!) };
    },

    async totals(merchantId, date, metricTypes) {
      const types = metricTypes ?? (await redis.smembers(typesKey(merchantId, date)));
      if (types.length === 0) return new Map();
      const values = await redis.mget(types.map((type) => totalKey(merchantId, date, type)));
      return new Map(types.flatMap((type, index) => (values[index] == null ? [] : [[type, BigInt(values[index])]])));
    },

    async *scanTotals(date, merchantId) {
      if (merchantId !== undefined) {
        const totals = [...(await this.totals(merchantId, date))];
        yield totals.map(([metricType, units]) => ({ merchantId, date, metricType, units }));
        return;
      }
      for (const node of nodesOf(redis)) {
        let cursor = '0';
        do {
          const [next, found] = await node.scan(cursor, 'MATCH', totalsPattern(date), 'COUNT', 100);
          cursor = next;
          const keys = [...new Set(found)];
          // One GET per key: a cluster node takes an MGET within one slot only.
          const values = await Promise.all(keys.map((key) => redis.get(key)));
          const page = keys.flatMap((key, index) => {
            const parsed = parseTotalKey(key);
            return parsed && values[index] != null ? [{ ...parsed, units: BigInt(values[index]) }] : [];
          });
          if (page.length > 0) yield page;
        } while (cursor !== '0');
      }
    },

    pendingMerchants: () => redis.smembers(PENDING),

    async newestItem(merchantId) {
      const [newest] = await redis.xrevrange(journalKey(merchantId), '+', '-', 'COUNT', 1);
      return newest?.[0] ?? null;
    },

    async oldestItems(merchantId, until, limit) {
      return (await redis.xrange(journalKey(merchantId), '-', until, 'COUNT', limit)).map(itemOf);
    },

    async newestItems(merchantId, limit) {
      return (await redis.xrevrange(journalKey(merchantId), '+', '-', 'COUNT', limit)).map(itemOf);
    },

    async remove(merchantId, items) {
      const left = await redis.removeFlushed(
        journalKey(merchantId),
        ...items.flatMap(({ streamId, batchId }) => [streamId, batchId]),
      );
      if (left > 0) return;
      await redis.srem(PENDING, merchantId);
      // Someone may have stored between the look and the removal.
      if ((await redis.xlen(journalKey(merchantId))) > 0) await redis.sadd(PENDING, merchantId);
    },

    async oldestItemAt(merchantIds) {
      const oldest = await Promise.all(merchantIds.map((id) => redis.xrange(journalKey(id), '-', '+', 'COUNT', 1)));
      const times = oldest.flatMap(([item]) => (item ? [Number(item[0].split('-')[0])] : []));
      return times.length === 0 ? null : Math.min(...times);
    },
  };
}

function nodesOf(redis: RedisClient) {
  return 'nodes' in redis ? redis.nodes('master') : [redis];
}

function itemOf([streamId, fields]: [string, string[]]): JournalItem {
  const field = (name: string) => fields[fields.indexOf(name) + 1] ?? '';
  return { streamId, batchId: field('batch'), count: Number(field('count')), lines: field('lines') };
}
