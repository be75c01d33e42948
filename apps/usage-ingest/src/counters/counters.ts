import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Day, MAX_SUM_UNITS, type Units } from '@tally/contracts';
import { mastersOf, type RedisClient } from '@tally/service';
import type { Cluster, Redis, Result } from 'ioredis';
import type { FaultPoint } from '../faults.ts';
import {
  dimensionsKey,
  expiryOf,
  JOURNALS_PATTERN,
  journalKey,
  LEAVING,
  PENDING,
  parseJournalKey,
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
  /** The distinct dimensions of the entries, by day. */
  dimensions: ReadonlyMap<Day, readonly string[]>;
};

export type Amount = { date: Day; metricType: string; units: Units };

export type Stored =
  | { outcome: 'stored' }
  /** Nothing was stored; these of the batch (by position) were seen before. */
  | { outcome: 'seen'; positions: number[] }
  /** Nothing was stored; these metric types or dimensions would be more than a day may have. */
  | { outcome: 'full'; kind: 'types' | 'dimensions'; date: Day; members: string[] }
  /** Nothing was stored; these totals would pass MAX_SUM_UNITS. */
  | { outcome: 'limit'; amounts: Amount[] };

/** An item of a journal stream: a batch as it was stored. */
export type JournalItem = { streamId: string; batchId: string; count: number; days: Day[]; lines: string };

/** What Redis holds of a merchant's day, seen at one moment. */
export type Snapshot = {
  /** Totals by metric type; undefined where Redis has none. */
  totals: ReadonlyMap<string, Units | undefined>;
  items: JournalItem[];
};

export type CounterLimits = {
  /** Metric types that a merchant may have a day. */
  typesPerDay: number;
  /** Distinct (user, key, model, provider) that a merchant may have a day. */
  dimensionsPerDay: number;
  /** Replicas that must have a batch before it is acknowledged. */
  waitReplicas: number;
};

export type LiveTotal = { merchantId: string; date: Day; metricType: string; units: Units };

export type Counters = {
  /** Stores a batch, whole or not at all. */
  store(batch: MerchantBatch, now: number): Promise<Stored>;
  /** The totals of a merchant's day by metric type; null where a total does not exist. */
  totals(merchantId: string, date: Day, metricTypes?: readonly string[]): Promise<Map<string, Units>>;
  /** Pages of at most 100 totals of a date, over all merchants, or of one merchant. */
  scanTotals(date: Day, merchantId?: string): AsyncGenerator<LiveTotal[]>;
  /** Merchants that may have something to flush: all that have an acknowledged item, and some that no longer do. */
  pendingMerchants(): Promise<string[]>;
  /** The id of the newest item of a merchant's journal; null where it is empty. */
  newestItem(merchantId: string): Promise<string | null>;
  /** The oldest items of a merchant's journal, up to and including `until`, that hold `entries` or all there are. */
  oldestItems(merchantId: string, until: string, entries: number): Promise<JournalItem[]>;
  /** The newest items of a merchant's journal, newest first. */
  newestItems(merchantId: string, limit: number): Promise<JournalItem[]>;
  /** Removes items that were flushed; a merchant without any is no longer pending. */
  remove(merchantId: string, items: readonly JournalItem[]): Promise<void>;
  /** Every merchant whose journal exists, found by a scan; they are made pending. */
  sweep(): Promise<string[]>;
  /** The totals of these types, and of all that Redis knows of the day, with the journal of the same moment. */
  snapshot(merchantId: string, date: Day, metricTypes: readonly string[]): Promise<Snapshot>;
  /** Replaces totals that are still as they were seen; false where one has changed and nothing was set. */
  setTotals(
    merchantId: string,
    date: Day,
    seen: Snapshot['totals'],
    right: ReadonlyMap<string, Units>,
  ): Promise<boolean>;
  /** Identities seen in the hot window, of a date. */
  seenIds(merchantId: string, date: Day, now: number): Promise<string[]>;
  /** When the oldest item of each of these merchants was stored, in milliseconds; of those that have one. */
  waitingSince(merchantIds: readonly string[]): Promise<number[]>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    recordBatch(numberOfKeys: number, ...keysAndArgs: string[]): Result<[string, ...number[]], Context>;
    setTotals(numberOfKeys: number, ...keysAndArgs: string[]): Result<number, Context>;
    removeFlushed(key: string, ...args: string[]): Result<number, Context>;
    oldestItems(key: string, until: string, entries: number): Result<[string, string[]][], Context>;
  }
}

/** How long an acknowledgement waits for replicas. */
const WAIT_MS = 1_000;

const LUA_FOLDER = new URL('../../lua/', import.meta.url);
const script = (name: string) => readFileSync(new URL(`${name}.lua`, LUA_FOLDER), 'utf8');

/** All `usage:*` keys: totals, journal streams, seen ids, pending merchants. */
export function createCounters(redis: RedisClient, limits: CounterLimits, fault: FaultPoint): Counters {
  redis.defineCommand('recordBatch', { lua: script('record-batch') });
  redis.defineCommand('setTotals', { lua: script('set-totals') });
  redis.defineCommand('removeFlushed', { numberOfKeys: 1, lua: script('remove-flushed') });
  redis.defineCommand('oldestItems', { numberOfKeys: 1, lua: script('oldest-items') });

  async function replicated(merchantId: string): Promise<void> {
    if (limits.waitReplicas === 0) return;
    const command = ['WAIT', limits.waitReplicas, WAIT_MS] as const;
    const node = 'nodes' in redis ? await nodeOf(redis, journalKey(merchantId)) : redis;
    const reached = Number(await node.call(...command));
    if (reached < limits.waitReplicas) throw new Error(`only ${reached} replicas have the batch`);
  }

  return {
    async store({ merchantId, identities, lines, amounts, dimensions }, now) {
      const { current, previous } = seenPeriods(now);
      const keys = [seenKey(merchantId, current), seenKey(merchantId, previous), journalKey(merchantId)];
      const bounded = [
        ...[...typesByDay(amounts)].map(([date, members]) => ({ kind: 'types' as const, date, members })),
        ...[...dimensions].map(([date, members]) => ({ kind: 'dimensions' as const, date, members })),
      ];
      const args = [String(SEEN_SECONDS), randomBytes(12).toString('base64url'), `[${lines.join(',')}]`];
      args.push(String(lines.length), [...dimensions.keys()].join(','), String(identities.length), ...identities);
      args.push(String(bounded.length));
      for (const { kind, date, members } of bounded) {
        const [key, most] =
          kind === 'types'
            ? [typesKey(merchantId, date), limits.typesPerDay]
            : [dimensionsKey(merchantId, date), limits.dimensionsPerDay];
        keys.push(key);
        args.push(String(most), String(expiryOf(date)), String(members.length), ...members);
      }
      for (const { date, metricType, units } of amounts) {
        keys.push(totalKey(merchantId, date, metricType));
        args.push(units.toString(), (MAX_SUM_UNITS - units).toString(), String(expiryOf(date)));
      }
      const recorded = redis.recordBatch(keys.length, ...keys, ...args);
      // One connection keeps the order; the nodes of a cluster do not.
      if ('nodes' in redis) await recorded;
      // After the batch is there, and before it is acknowledged, as seen before too: see `remove`.
      const [[outcome, ...indexes]] = await Promise.all([recorded, redis.sadd(PENDING, merchantId)]);
      if (outcome === 'ok') {
        await replicated(merchantId);
        return { outcome: 'stored' };
      }
      if (outcome === 'seen') return { outcome: 'seen', positions: indexes };
      if (outcome === 'limit') return { outcome: 'limit', amounts: indexes.map((index) => amounts[index]!) };
      const { kind, date, members } = bounded[indexes[0]!]!;
      return { outcome: 'full', kind, date, members: indexes.slice(1).map((index) => members[index]!) };
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
      for (const node of mastersOf(redis)) {
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

    async pendingMerchants() {
      const [pending, leaving] = await Promise.all([redis.smembers(PENDING), redis.smembers(LEAVING)]);
      return [...new Set([...pending, ...leaving.map(merchantOfMark)])];
    },

    async newestItem(merchantId) {
      const [newest] = await redis.xrevrange(journalKey(merchantId), '+', '-', 'COUNT', 1);
      return newest?.[0] ?? null;
    },

    async oldestItems(merchantId, until, entries) {
      return (await redis.oldestItems(journalKey(merchantId), until, entries)).map(itemOf);
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
      // Whoever stores makes pending after that. So either our look at the stream sees what was stored, or the merchant
      // is made pending after our removal; and should we die in between, our mark says so.
      const mark = markOf(merchantId);
      await redis.multi().sadd(LEAVING, mark).srem(PENDING, merchantId).exec();
      await fault('flush.while-leaving');
      // Marks that others left, dead or not, stand for removals before our look: it speaks for them too.
      const marks = (await redis.smembers(LEAVING)).filter((each) => merchantOfMark(each) === merchantId);
      if ((await redis.xlen(journalKey(merchantId))) > 0) await redis.sadd(PENDING, merchantId);
      await redis.srem(LEAVING, mark, ...marks);
    },

    async sweep() {
      const marks = await redis.smembers(LEAVING);
      const merchants = new Set(marks.map(merchantOfMark));
      for (const node of mastersOf(redis)) {
        let cursor = '0';
        do {
          const [next, keys] = await node.scan(cursor, 'MATCH', JOURNALS_PATTERN, 'COUNT', 1000);
          cursor = next;
          for (const key of keys) {
            const merchantId = parseJournalKey(key);
            if (merchantId !== undefined) merchants.add(merchantId);
          }
        } while (cursor !== '0');
      }
      if (merchants.size > 0) await redis.sadd(PENDING, ...merchants);
      if (marks.length > 0) await redis.srem(LEAVING, ...marks);
      return [...merchants];
    },

    async snapshot(merchantId, date, metricTypes) {
      for (let types = new Set(metricTypes); ; ) {
        const asked = [...types];
        const replies = await redis
          .multi()
          .smembers(typesKey(merchantId, date))
          .xrange(journalKey(merchantId), '-', '+')
          .mget(typesKey(merchantId, '0000-00-00'), ...asked.map((type) => totalKey(merchantId, date, type)))
          .exec();
        const [known, items, [, ...values]] = (replies ?? []).map(([error, reply]) => {
          if (error) throw error;
          return reply;
        }) as [string[], [string, string[]][], [null, ...(string | null)[]]];
        types = new Set([...metricTypes, ...known]);
        // A type that came up in between is asked for in another round.
        if (known.some((type) => !asked.includes(type))) continue;
        const totals = asked.map((type, index): [string, Units | undefined] => {
          const value = values[index];
          return [type, value == null ? undefined : BigInt(value)];
        });
        return { totals: new Map(totals), items: items.map(itemOf) };
      }
    },

    async setTotals(merchantId, date, seen, right) {
      const types = [...right.keys()];
      const keys = [typesKey(merchantId, date), ...types.map((type) => totalKey(merchantId, date, type))];
      const args = types.flatMap((type) => [type, seen.get(type)?.toString() ?? '', right.get(type)!.toString()]);
      return (await redis.setTotals(keys.length, ...keys, String(expiryOf(date)), ...args)) === 1;
    },

    async seenIds(merchantId, date, now) {
      const { current, previous } = seenPeriods(now);
      const sets = await Promise.all([current, previous].map((period) => redis.smembers(seenKey(merchantId, period))));
      return sets.flat().filter((identity) => identity.startsWith(`${date} `));
    },

    async waitingSince(merchantIds) {
      const oldest = await Promise.all(merchantIds.map((id) => redis.xrange(journalKey(id), '-', '+', 'COUNT', 1)));
      return oldest.flatMap(([item]) => (item ? [Number(item[0].split('-')[0])] : []));
    },
  };
}

const markOf = (merchantId: string) => `${randomBytes(9).toString('base64url')} ${merchantId}`;
const merchantOfMark = (mark: string) => mark.slice(mark.indexOf(' ') + 1);

function typesByDay(amounts: readonly Amount[]): Map<Day, string[]> {
  const days = new Map<Day, string[]>();
  for (const { date, metricType } of amounts) days.set(date, [...(days.get(date) ?? []), metricType]);
  return days;
}

/** The master that holds a key: WAIT counts the replicas of the connection that wrote. */
async function nodeOf(cluster: Cluster, key: string): Promise<Redis> {
  const slot = Number(await cluster.cluster('KEYSLOT', key));
  const [address] = (cluster as unknown as { slots: string[][] }).slots[slot] ?? [];
  const node = cluster.nodes('master').find(({ options: { host, port } }) => `${host}:${port}` === address);
  if (!node) throw new Error('the cluster knows no master of this merchant');
  return node;
}

function itemOf([streamId, fields]: [string, string[]]): JournalItem {
  const field = (name: string) => fields[fields.indexOf(name) + 1] ?? '';
  return {
    streamId,
    batchId: field('batch'),
    count: Number(field('count')),
    days: field('days').split(','),
    lines: field('lines'),
  };
}
