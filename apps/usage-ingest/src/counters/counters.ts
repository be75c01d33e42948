import type { Day, Units } from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import { activeRequest, mastersOf, type RedisClient, recordStep } from '@tally/service';
import slotOf from 'cluster-key-slot';
import type { Cluster, Redis, Result } from 'ioredis';
import { createGather } from './gather.ts';
import { FLUSHERS_KEY, parseTotalKey, type RedisKeys, totalsPattern } from './keys.ts';
import { lua } from './lua.ts';
import { batchKey, parseWindowId, type Recorded, type Refusal, recordCall } from './record-call.ts';
import { CUT_AGE_MS, type DeduplicationWindow, MAX_AGE_MS, MAX_GENERATIONS } from './window.ts';

/** An item of a shard's journal stream: events of one script call. `lines` are JSON texts, separated by newlines. */
export type JournalItem = { streamId: string; batchId: string; count: number; lines: string };

/** The amount of a repeat, to be subtracted from a total. */
export type Amount = { merchantId: string; date: Day; metricType: string; units: string };

/** A flushed item with the amounts of its repeats. */
export type Removal = { item: JournalItem; repeats: readonly Amount[] };

export type DayToRead = { merchantId: string; date: Day; metricTypes: readonly string[] };

/** The running totals of some merchants' days of one shard, at one moment. */
export type DaysRead = {
  /** The last item that the totals include; null without pending items. */
  lastItem: string | null;
  /** How often repeats were subtracted from totals of the shard. */
  subtractions: string;
  days: {
    /** False if Redis restarted since the totals were last repaired, or they are known to be wrong. */
    trusted: boolean;
    totals: Map<string, Units>;
  }[];
};

export type LiveTotal = { merchantId: string; date: Day; metricType: string; units: Units };

export type CounterLimits = {
  /** The limit of metric types per merchant and day. */
  typesPerDay: number;
  /** Replicas that must have a batch before it is acknowledged. */
  waitReplicas: number;
};

export type Counters = {
  readonly keys: RedisKeys;
  /**
   * Stores events. Returns for each undefined, or the reason for not storing it. Concurrent calls share round trips.
   * `contested`: those whose id other lines have with other content. Of one id, those that are known are repeats; if
   * none is, the first is stored.
   */
  record(
    lines: readonly JournalLine[],
    registryVersion?: number,
    contested?: ReadonlySet<JournalLine>,
  ): Promise<(Refusal | undefined)[]>;
  /** Returns the totals of days of one shard, and the end of its journal. */
  readDays(shard: number, days: readonly DayToRead[]): Promise<DaysRead>;
  /** Returns how often totals of a shard were repaired. */
  repairs(shard: number): Promise<string>;
  /**
   * Adds differences to totals of one shard; besides `record`, the only function that creates a total. Returns false if
   * totals were repaired since there were so many `repairs`: read the totals again, they may be right now.
   */
  addDifferences(shard: number, repairs: string, differences: readonly LiveTotal[]): Promise<boolean>;
  /**
   * Records that a repair of a shard began, that these merchants are repaired, or that all are. Has no effect if Redis
   * restarted, or was emptied, since the repair began.
   */
  markRepaired(shard: number, run: string, step: 'begin' | 'end' | readonly string[]): Promise<void>;
  /** Replaces the list of merchants whose totals are known to be wrong. */
  distrust(merchantIds: readonly string[]): Promise<void>;
  /**
   * Returns for each shard the id of the run of Redis that holds it, and whether all its totals were repaired in it.
   * Asked every second: two commands, or on a cluster one for each master and shard.
   */
  lives(): Promise<{ run: string; repaired: boolean }[]>;
  /** Yields pages of at most 100 totals of a date, over all merchants, or of one merchant. */
  scanTotals(date: Day, merchantId?: string): AsyncGenerator<LiveTotal[]>;
  /** Returns the clock of Redis in milliseconds, by which items get their ids. */
  time(): Promise<number>;
  /** Returns the id of the newest item of each of these shards; null if empty. */
  newestItems(shards: readonly number[]): Promise<(string | null)[]>;
  /** Returns the id of the oldest item of each of these shards; null if empty. */
  oldestItemIds(shards: readonly number[]): Promise<(string | null)[]>;
  /** Returns the oldest items of a shard after `after` and up to `until`: enough to reach a limit, or all. */
  oldestItems(
    shard: number,
    range: { after: string | null; until: string },
    most: { events: number; bytes: number },
  ): Promise<JournalItem[]>;
  /** Returns the newest items of a shard before `before`, newest first; at most `count`. */
  itemsBefore(shard: number, before: string | null, count: number): Promise<JournalItem[]>;
  /** Removes flushed items of a shard, and subtracts their repeats from the totals. */
  remove(shard: number, removals: readonly Removal[]): Promise<void>;
  /** Returns how often repeats were subtracted from totals of a shard. */
  subtractions(shard: number): Promise<string>;
  /**
   * Returns the ids of a merchant's day in the deduplication window; `dates`: near a midnight, an id may belong to
   * either day.
   */
  knownIds(merchantId: string, date: Day): Promise<{ id: string; dates: Day[] }[]>;
  /** Returns merchants with pending events, over all shards. */
  waitingMerchants(): Promise<string[]>;
  /** Reports a flusher process; returns the number of flushers. */
  reportFlusher(name: string, now: number): Promise<number>;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    recordEvents(numberOfKeys: number, ...keysAndArgs: (string | number)[]): Result<number[], Context>;
    readDays(
      numberOfKeys: number,
      ...keysAndArgs: string[]
    ): Result<[string, string, ...(string | number)[][]], Context>;
    addDifferences(numberOfKeys: number, ...keysAndArgs: (string | number)[]): Result<number, Context>;
    markRepaired(key: string, ...args: string[]): Result<number, Context>;
    removeItems(numberOfKeys: number, ...keysAndArgs: (string | number)[]): Result<number, Context>;
    oldestItems(key: string, ...args: (string | number)[]): Result<[string, string[]][], Context>;
    waitingMerchants(key: string): Result<string[], Context>;
    itemIds(numberOfKeys: number, ...keysAndEnd: string[]): Result<string[], Context>;
  }
}

/** Limits of one script call: more would block other calls of Redis for more than about 10 ms. */
const CALL_EVENTS = 2_000;
const CALL_BYTES = 1024 * 1024;

/** How long an acknowledgement waits for replicas. */
const WAIT_MS = 1_000;
/** A flusher without a report for this long is gone. */
const FLUSHER_MS = 10_000;

/** All `usage:*` and `usage-shard:*` keys: totals, journal streams, event ids. */
export function createCounters(
  redis: RedisClient,
  keys: RedisKeys,
  limits: CounterLimits,
  window: Pick<DeduplicationWindow, 'cutSize'>,
): Counters {
  redis.defineCommand('recordEvents', { lua: lua('record-events') });
  redis.defineCommand('readDays', { lua: lua('read-days') });
  redis.defineCommand('addDifferences', { lua: lua('add-differences') });
  redis.defineCommand('markRepaired', { numberOfKeys: 1, lua: lua('mark-repaired') });
  redis.defineCommand('removeItems', { lua: lua('remove-items') });
  redis.defineCommand('oldestItems', { numberOfKeys: 1, lua: lua('oldest-items') });
  redis.defineCommand('waitingMerchants', { numberOfKeys: 1, lua: lua('waiting-merchants') });
  redis.defineCommand('itemIds', { lua: lua('item-ids') });

  /** Sends the events of the newest registry; those checked with an older one are stale. */
  async function send(events: readonly Recorded[]): Promise<(Refusal | undefined)[]> {
    const newest = Math.max(...events.map(({ version = 0 }) => version));
    const isCurrent = ({ version = 0 }: Recorded) => version === newest;
    if (events.every(isCurrent)) return sendAll(events, newest);
    const sent = await sendAll(events.filter(isCurrent), newest);
    let at = 0;
    return events.map((event) => (isCurrent(event) ? sent[at++] : 'stale'));
  }

  async function sendAll(events: readonly Recorded[], version: number): Promise<(Refusal | undefined)[]> {
    const generations = { cutAgeMs: CUT_AGE_MS, maxAgeMs: MAX_AGE_MS, maxGenerations: MAX_GENERATIONS };
    const call = recordCall(events, keys, {
      typesPerDay: limits.typesPerDay,
      window: { cutSize: window.cutSize(), ...generations },
      registryVersion: version || undefined,
    });
    const startedAt = Date.now();
    const answer = await redis.recordEvents(call.keys.length, ...call.keys, ...call.args);
    await replicated(call.keys[0]!);
    recordStep(() => ({
      ...{ name: 'tally.accept', key: batchKey(call.seed), startedAt },
      requests: events.map(({ request }) => request),
      attributes: { 'tally.events': events.length },
    }));
    return call.read(answer);
  }

  async function replicated(key: string): Promise<void> {
    if (limits.waitReplicas === 0) return;
    const command = ['WAIT', limits.waitReplicas, WAIT_MS] as const;
    const node = 'nodes' in redis ? nodeOf(redis, key) : redis;
    const reached = Number(await node.call(...command));
    if (reached < limits.waitReplicas) throw new Error(`only ${reached} replicas have the batch`);
  }

  // On one Redis a call may touch all shards; on a cluster only those of one slot, so each shard gathers by itself.
  const lanes: ReturnType<typeof createGather<Recorded, Refusal | undefined>>[] = [];
  const gather = (lane: number) => {
    lanes[lane] ??= createGather({ maxItems: CALL_EVENTS, maxBytes: CALL_BYTES, send });
    return lanes[lane];
  };
  const laneOf = (line: JournalLine) => (keys.clustered ? keys.shardOf(line.merchant_id) : 0);

  /** Readers of one moment call this often: one call on one Redis, one per shard on a cluster. */
  async function itemIds(shards: readonly number[], end: 'newest' | 'oldest'): Promise<(string | null)[]> {
    if (shards.length === 0) return [];
    const calls = keys.clustered ? shards.map((shard) => [shard]) : [shards];
    const found = await Promise.all(
      calls.map((own) => redis.itemIds(own.length, ...own.map((shard) => keys.journal(shard)), end)),
    );
    return found.flat().map((id) => id || null);
  }

  return {
    keys,

    async record(lines, version, contested) {
      const refusals: (Refusal | undefined)[] = new Array(lines.length).fill(undefined);
      type Part = { lane: number; positions: number[]; items: Recorded[]; bytes: number };
      const parts: Part[] = [];
      const open = new Map<number, Part>();
      const request = activeRequest();
      lines.forEach((line, position) => {
        const lane = laneOf(line);
        const text = JSON.stringify(line);
        const isContested = contested?.has(line) ?? false;
        // One call decides between contents of one id, however large: each lane has one beside its others.
        const place = isContested ? -1 - lane : lane;
        let part = open.get(place);
        const isFull = part && (part.items.length === CALL_EVENTS || part.bytes + text.length > CALL_BYTES);
        if (!part || (isFull && !isContested)) {
          part = { lane, positions: [], items: [], bytes: 0 };
          open.set(place, part);
          parts.push(part);
        }
        part.positions.push(position);
        part.items.push({ line, text, version, request, isContested });
        part.bytes += text.length;
      });
      await Promise.all(
        parts.map(async (part) => {
          const own = await gather(part.lane)(part);
          own.forEach((refusal, index) => {
            refusals[part.positions[index]!] = refusal;
          });
        }),
      );
      return refusals;
    },

    async readDays(shard, days) {
      const repaired = keys.repaired(shard);
      const own = days.map(({ merchantId, date }) => keys.types(merchantId, date));
      const args = days.flatMap(({ merchantId, date, metricTypes }) => {
        const { prefix, suffix } = keys.total(merchantId, date);
        return [merchantId, prefix, suffix, metricTypes.join(',')];
      });
      const all = [keys.journal(shard), keys.subtractions(shard), keys.life(shard), keys.stale(shard), ...own];
      const answer = await redis.readDays(all.length, ...all, repaired.prefix, repaired.suffix, ...args);
      const [lastItem, subtractions, ...read] = answer;
      return {
        lastItem: lastItem === '' ? null : lastItem,
        subtractions,
        days: read.map(([trusted, ...totals]) => ({ trusted: trusted === 1, totals: totalsOf(totals as string[]) })),
      };
    },

    repairs: async (shard) => (await redis.get(keys.repairs(shard))) ?? '0',

    async addDifferences(shard, repairs, differences) {
      if (differences.length === 0) return true;
      const own = differences.flatMap(({ merchantId, date, metricType }) => {
        const { prefix, suffix } = keys.total(merchantId, date);
        return [keys.types(merchantId, date), prefix + metricType + suffix];
      });
      const args = differences.flatMap(({ date, metricType, units }) => [
        metricType,
        units.toString(),
        keys.expiryOf(date),
      ]);
      const all = [keys.repairs(shard), ...own];
      return (await redis.addDifferences(all.length, ...all, repairs, ...args)) === 1;
    },

    async markRepaired(shard, run, step) {
      const { prefix, suffix } = keys.repaired(shard);
      const [name, merchantIds] = typeof step === 'string' ? [step, []] : ['merchants', step];
      await redis.markRepaired(keys.life(shard), prefix, suffix, name, run, ...merchantIds);
    },

    async distrust(merchantIds) {
      const lists = Array.from({ length: keys.shards }, (): string[] => []);
      for (const merchantId of merchantIds) lists[keys.shardOf(merchantId)]!.push(merchantId);
      await Promise.all(
        lists.map(async (list, shard) => {
          const replacing = redis.multi().unlink(keys.stale(shard));
          const answers = await (list.length > 0 ? replacing.sadd(keys.stale(shard), list) : replacing).exec();
          const failed = answers?.find(([error]) => error);
          if (failed) throw failed[0];
        }),
      );
    },

    async lives() {
      const all = Array.from({ length: keys.shards }, (_, shard) => keys.life(shard));
      const nodes = all.map((key) => ('nodes' in redis ? nodeOf(redis, key) : redis));
      const masters = [...new Set(nodes)];
      const [infos, lives] = await Promise.all([
        Promise.all(masters.map((node) => node.info('server'))),
        keys.clustered ? Promise.all(all.map((key) => redis.get(key))) : redis.mget(all),
      ]);
      const runs = infos.map((info) => /^run_id:(\w+)/m.exec(info)?.[1] ?? '');
      return nodes.map((node, shard) => {
        const run = runs[masters.indexOf(node)]!;
        return { run, repaired: lives[shard] === run };
      });
    },

    async *scanTotals(date, merchantId) {
      if (merchantId !== undefined) {
        const { days } = await this.readDays(keys.shardOf(merchantId), [{ merchantId, date, metricTypes: [] }]);
        yield [...days[0]!.totals].map(([metricType, units]) => ({ merchantId, date, metricType, units }));
        return;
      }
      for (const node of mastersOf(redis)) {
        let cursor = '0';
        do {
          const [next, found] = await node.scan(cursor, 'MATCH', totalsPattern(date), 'COUNT', 100);
          cursor = next;
          const own = [...new Set(found)].filter((key) => parseTotalKey(key)?.date === date);
          // One GET per key: a cluster node accepts an MGET only within one slot.
          const values = await Promise.all(own.map((key) => redis.get(key)));
          const page = own.flatMap((key, index) => {
            const value = values[index];
            return value == null ? [] : [{ ...parseTotalKey(key)!, units: BigInt(value) }];
          });
          if (page.length > 0) yield page;
        } while (cursor !== '0');
      }
    },

    async time() {
      const [seconds, microseconds] = await redis.time();
      return Number(seconds) * 1000 + Math.floor(Number(microseconds) / 1000);
    },

    newestItems: (shards) => itemIds(shards, 'newest'),
    oldestItemIds: (shards) => itemIds(shards, 'oldest'),

    async oldestItems(shard, { after, until }, { events, bytes }) {
      return (await redis.oldestItems(keys.journal(shard), after ?? '-', until, events, bytes)).map(itemOf);
    },

    async itemsBefore(shard, before, count) {
      const from = before === null ? '+' : `(${before}`;
      return (await redis.xrevrange(keys.journal(shard), from, '-', 'COUNT', count)).map(itemOf);
    },

    async remove(shard, removals) {
      if (removals.length === 0) return;
      const totals: string[] = [];
      const args: (string | number)[] = [];
      for (const { item, repeats } of removals) {
        args.push(item.streamId, item.batchId, repeats.length);
        for (const { merchantId, date, metricType, units } of repeats) {
          const { prefix, suffix } = keys.total(merchantId, date);
          totals.push(prefix + metricType + suffix);
          args.push(units);
        }
      }
      const own = [keys.journal(shard), keys.subtractions(shard), ...totals];
      await redis.removeItems(own.length, ...own, ...args);
    },

    subtractions: async (shard) => (await redis.get(keys.subtractions(shard))) ?? '0',

    async knownIds(merchantId, date) {
      const shard = keys.shardOf(merchantId);
      const { prefix, suffix } = keys.ids(shard);
      const found = new Map<string, { id: string; dates: Day[] }>();
      for (const name of await redis.lrange(keys.window(shard), 0, -1)) {
        let cursor = '0';
        do {
          const [next, names] = await redis.sscan(prefix + name + suffix, cursor, 'COUNT', 1_000);
          cursor = next;
          for (const { id, dates, ...of } of names.map(parseWindowId)) {
            if (of.merchantId === merchantId && dates.includes(date)) found.set(`${dates} ${id}`, { id, dates });
          }
        } while (cursor !== '0');
      }
      return [...found.values()];
    },

    async waitingMerchants() {
      const all = Array.from({ length: keys.shards }, (_, shard) => shard);
      const waiting = await Promise.all(all.map((shard) => redis.waitingMerchants(keys.journal(shard))));
      return waiting.flat();
    },

    async reportFlusher(name, now) {
      await redis.zadd(FLUSHERS_KEY, now, name);
      await redis.zremrangebyscore(FLUSHERS_KEY, '-inf', now - FLUSHER_MS);
      return redis.zcard(FLUSHERS_KEY);
    },
  };
}

function totalsOf(pairs: readonly string[]): Map<string, Units> {
  const totals = new Map<string, Units>();
  for (let at = 0; at < pairs.length; at += 2) totals.set(pairs[at]!, BigInt(pairs[at + 1]!));
  return totals;
}

/** The master that holds a key: WAIT counts the replicas of the connection that wrote. */
function nodeOf(cluster: Cluster, key: string): Redis {
  const [address] = (cluster as unknown as { slots: string[][] }).slots[slotOf(key)] ?? [];
  const node = cluster.nodes('master').find(({ options: { host, port } }) => `${host}:${port}` === address);
  if (!node) throw new Error('the cluster knows no master of this shard');
  return node;
}

function itemOf([streamId, fields]: [string, string[]]): JournalItem {
  const field = (name: string) => fields[fields.indexOf(name) + 1] ?? '';
  return { streamId, batchId: field('batch'), count: Number(field('count')), lines: field('lines') };
}
