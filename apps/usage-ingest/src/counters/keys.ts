import { crc32 } from 'node:zlib';
import { addDays, type Day, startOfDay } from '@tally/contracts';
import slotOf from 'cluster-key-slot';

/**
 * Every Redis key of usage-ingest. On one Redis a total is named `usage:acme:2026-11-22:queries`; on a Redis Cluster
 * every key ends in the hash tag of its shard, so that one script call touches one slot. Never use a keyPrefix.
 */
export type RedisKeys = {
  readonly shards: number;
  /** Sets the number of shards, if it becomes known after the start. */
  adopt(shards: number): void;
  /** True on a Redis Cluster: one call may touch only keys of one shard. */
  readonly clustered: boolean;
  shardOf(merchantId: string): number;
  /** A total's key, as the parts before and after its metric type. */
  total(merchantId: string, date: Day): { prefix: string; suffix: string };
  /** The set of metric types with totals for a merchant's day. */
  types(merchantId: string, date: Day): string;
  /** When a day's totals expire, in Unix seconds. */
  expiryOf(date: Day): number;
  /** The stream of accepted events that are not yet in Postgres. */
  journal(shard: number): string;
  /** The names of the generations of event ids, newest first. */
  window(shard: number): string;
  /** For each closed generation, the last stream item whose ids it holds. */
  windowEnds(shard: number): string;
  /** A generation's set of event ids, as the parts before and after its name. */
  ids(shard: number): { prefix: string; suffix: string };
  /** The version of the registry of meters that events must be checked with, or `changing`. */
  registry(shard: number): string;
  /** How often repeats were subtracted from the totals; see `repair`. */
  subtractions(shard: number): string;
  /** How often totals were repaired. */
  repairs(shard: number): string;
  /** The run of Redis in which all totals of the shard were last repaired. */
  life(shard: number): string;
  /** The merchants whose totals are known to be wrong. */
  stale(shard: number): string;
  /** The merchants repaired in one run of Redis, as the parts before and after the id of the run. */
  repaired(shard: number): { prefix: string; suffix: string };
};

/** The number of shards that this Redis was first used with. */
export const SHARD_COUNT_KEY = 'usage-shard:count';

/** The flusher processes, by the time of their last report. */
export const FLUSHERS_KEY = 'usage-shard:flushers';

/** Slots of a Redis Cluster. */
const SLOTS = 16_384;

/** `now`: the clock of the service. One that was given may differ from that of Redis, by which totals expire. */
export function createRedisKeys({
  clustered,
  now = Date.now,
  ...first
}: {
  shards: number;
  clustered: boolean;
  now?: () => number;
}): RedisKeys {
  /** The last result: the groups of a call are of one day, or a few. */
  let latest = { date: '', endMs: 0 };
  const endsOf = (count: number) =>
    Array.from({ length: count }, (_, shard) => (clustered ? `:{${tagOf(shard, count)}}` : ''));
  let [shards, ends] = [first.shards, endsOf(first.shards)];
  const shardOf = (merchantId: string) => crc32(merchantId) % shards;
  const ofShard = (shard: number, name: string) => `usage-shard:${shard}:${name}${ends[shard]}`;
  const parts = (shard: number, name: string) => ({ prefix: `usage-shard:${shard}:${name}:`, suffix: ends[shard]! });
  return {
    get shards() {
      return shards;
    },
    adopt(count) {
      if (count !== shards) [shards, ends] = [count, endsOf(count)];
    },
    clustered,
    shardOf,
    total: (merchantId, date) => ({
      prefix: `usage:${encode(merchantId)}:${date}:`,
      suffix: clustered ? ends[shardOf(merchantId)]! : '',
    }),
    expiryOf(date) {
      if (latest.date !== date) latest = { date, endMs: startOfDay(addDays(date, LIVE_DAYS + 2)) };
      return Math.round((latest.endMs + Date.now() - now()) / 1000);
    },
    types: (merchantId, date) => ofShard(shardOf(merchantId), `types:${date}:${encode(merchantId)}`),
    journal: (shard) => ofShard(shard, 'journal'),
    window: (shard) => ofShard(shard, 'window'),
    windowEnds: (shard) => ofShard(shard, 'window-ends'),
    ids: (shard) => parts(shard, 'ids'),
    registry: (shard) => ofShard(shard, 'registry'),
    subtractions: (shard) => ofShard(shard, 'subtractions'),
    repairs: (shard) => ofShard(shard, 'repairs'),
    life: (shard) => ofShard(shard, 'life'),
    stale: (shard) => ofShard(shard, 'stale'),
    repaired: (shard) => parts(shard, 'repaired'),
  };
}

/** Matches the totals of a date, and some keys that `parseTotalKey` sorts out. */
export const totalsPattern = (date: Day) => `usage:*:${date}:*`;

/** Parses a total's key from its right end; undefined for any other key. */
export function parseTotalKey(key: string): { merchantId: string; date: Day; metricType: string } | undefined {
  const pattern = /^usage:([^{}\s]+):(\d{4}-\d{2}-\d{2}):([a-z0-9_]+)(?::\{[a-z0-9]+\})?$/;
  const [, merchant, date, metricType] = pattern.exec(key) ?? [];
  return metricType === undefined ? undefined : { merchantId: decode(merchant!), date: date!, metricType };
}

const SPECIAL = /[%{}\s]/u;

/** Encodes a merchant id for keys: braces would be a hash tag, and white space ends an argument of redis-cli. */
function encode(merchantId: string): string {
  return SPECIAL.test(merchantId) ? merchantId.replace(/[%{}\s]/gu, encodeURIComponent) : merchantId;
}

function decode(merchant: string): string {
  return merchant.includes('%') ? decodeURIComponent(merchant) : merchant;
}

/** Returns the hash tag of a shard: the first number whose slot lies in the shard's own part of all slots. */
function tagOf(shard: number, shards: number): string {
  const [from, to] = [shard, shard + 1].map((each) => Math.floor((each * SLOTS) / shards));
  for (let tag = 0; ; tag++) {
    const slot = slotOf(String(tag));
    if (slot >= from! && slot < to!) return String(tag);
  }
}

/** Totals expire 7 days after their date; the last events for them arrive 6 days after it. */
export const LIVE_DAYS = 6;
