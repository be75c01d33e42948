import { hash, randomBytes } from 'node:crypto';
import { addDays, type Day, type Units } from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import type { activeRequest } from '@tally/service';
import { eachAmount, MIDNIGHT, placeOf } from '../line.ts';
import type { RedisKeys } from './keys.ts';

/** A line to record, with its text in the journal stream, and the registry it was checked with: undefined for any. */
export type Recorded = {
  line: JournalLine;
  text: string;
  version: number | undefined;
  /** Other lines have its id with other content. */
  isContested: boolean;
  /** The request that it arrived with; undefined while nothing is traced. */
  request?: ReturnType<typeof activeRequest>;
};

const SEED_BYTES = 6;
const SEED_LENGTH = (SEED_BYTES * 4) / 3;

/** Identifies a call in traces; a batch id begins with the seed of its call. */
export const batchKey = (batchId: string): string => `batch:${batchId.slice(0, SEED_LENGTH)}`;

/**
 * Why an event was not stored. `unusable`: its totals in Redis cannot be added to, so it must go to Postgres.
 * `conflict`: its id has other content. `stale`: it was checked with another registry of meters than the current one,
 * so it must be checked again.
 */
export type Refusal = 'repeat' | 'types' | 'limit' | 'unusable' | 'conflict' | 'stale';

const REFUSALS: readonly (Refusal | undefined)[] = [undefined, 'repeat', 'types', 'limit', 'unusable', 'conflict'];

export type WindowLimits = { cutSize: number; cutAgeMs: number; maxAgeMs: number; maxGenerations: number };

export type RecordCall = {
  /** Random; begins the ids of its batches. */
  seed: string;
  keys: string[];
  args: (string | number)[];
  /** Parses the script's answer: one refusal, or undefined if stored, for each event in its order. */
  read(answer: readonly number[]): (Refusal | undefined)[];
};

type Group = { merchantId: string; date: Day; events: number[]; sums: Map<string, Sum>; isContested: boolean };

/** Builds the keys and arguments of `record-events.lua` for some events. */
export function recordCall(
  events: readonly Recorded[],
  keys: RedisKeys,
  limits: { typesPerDay: number; window: WindowLimits; registryVersion?: number | undefined },
): RecordCall {
  const shards = groupsByShard(events, keys);
  const [shardKeys, registryKeys, groupKeys]: [string[], string[], string[]] = [[], [], []];
  const { cutSize, cutAgeMs, maxAgeMs, maxGenerations } = limits.window;
  const seed = randomBytes(SEED_BYTES).toString('base64url');
  const args: (string | number)[] = [seed, limits.typesPerDay, cutSize, cutAgeMs, maxAgeMs, maxGenerations];
  args.push(shards.size, limits.registryVersion ?? '');
  const order: number[] = [];
  for (const [shard, groups] of shards) {
    shardKeys.push(keys.journal(shard), keys.window(shard), keys.windowEnds(shard));
    registryKeys.push(keys.registry(shard));
    const ids = keys.ids(shard);
    const first = order.length;
    for (const group of groups.values()) order.push(...group.events);
    const own = order.slice(first);
    const lines = own.map((index) => events[index]!.text).join('\n');
    args.push(ids.prefix, ids.suffix, own.length, groups.size, lines);
    for (const index of own) args.push(windowIdOf(events[index]!));
    for (const { merchantId, date, events: own, sums, isContested } of groups.values()) {
      args.push(isContested ? -own.length : own.length, merchantId, keys.expiryOf(date), sums.size);
      groupKeys.push(keys.types(merchantId, date));
      const { prefix, suffix } = keys.total(merchantId, date);
      for (const [metricType, sum] of sums) {
        groupKeys.push(prefix + metricType + suffix);
        args.push(textOf(sum));
      }
    }
  }
  return {
    seed,
    keys: shardKeys.concat(registryKeys, groupKeys),
    args,
    read(answer) {
      if (answer[0] === -1) return new Array(events.length).fill('stale');
      const refusals: (Refusal | undefined)[] = new Array(events.length).fill(undefined);
      for (let at = 0; at < answer.length; at += 2) refusals[order[answer[at]!]!] = REFUSALS[answer[at + 1]!];
      return refusals;
    },
  };
}

/** The characters of a hash that distinguish contents. The journal compares where this is not enough. */
const HASH_CHARS = 8;

/**
 * Encodes an event for the window: merchant, day or midnight, id and content. A repeat with other content is thus no
 * repeat for Redis, and goes to the journal, which finds the conflict. A merchant id contains no newline.
 */
function windowIdOf({ line, text }: Recorded): string {
  return `${line.merchant_id}\n${placeOf(line)} ${line.id}\n${line.compared ? '' : hashOf(text)}`;
}

/** Hashes the text of a line behind its time: neither its identity nor its time. */
function hashOf(text: string): string {
  const time = text.indexOf(',"time":');
  return hash('sha1', text.slice(text.indexOf(',', time + 1)), 'base64url').slice(0, HASH_CHARS);
}

/** Decodes an event of the window; around a midnight it is of one of two days. */
export function parseWindowId(name: string): { merchantId: string; dates: Day[]; id: string } {
  const [merchantId, identity] = name.split('\n') as [string, string];
  const [place] = identity.split(' ', 1) as [string];
  const day = place.replace(MIDNIGHT, '');
  const dates = place === day ? [day] : [addDays(day, -1), day];
  return { merchantId, dates, id: identity.slice(place.length + 1) };
}

function groupsByShard(events: readonly Recorded[], keys: RedisKeys): Map<number, Map<string, Group>> {
  const shards = new Map<number, Map<string, Group>>();
  let group: Group | undefined;
  const addAmount = (metricType: string, units: string) => {
    const sum = group!.sums.get(metricType);
    if (sum) addTo(sum, units);
    else group!.sums.set(metricType, addTo({ small: 0, large: 0n }, units));
  };
  for (let index = 0; index < events.length; index++) {
    const { line, isContested } = events[index]!;
    if (group?.merchantId !== line.merchant_id || group.date !== line.date) {
      const shard = keys.shardOf(line.merchant_id);
      const groups = shards.get(shard) ?? new Map<string, Group>();
      shards.set(shard, groups);
      const name = `${line.merchant_id}\n${line.date}`;
      group = groups.get(name);
      if (!group) {
        group = { merchantId: line.merchant_id, date: line.date, events: [], sums: new Map(), isContested };
        groups.set(name, group);
      }
    }
    group.events.push(index);
    group.isContested ||= isContested;
    eachAmount(line, addAmount);
  }
  return shards;
}

/** An exact sum: doubles while they are exact, which amounts of at most 10^15 make easy to detect. */
type Sum = { small: number; large: Units };

const EXACT_DIGITS = 15;
const EXACT_MAX = 8e15;

function addTo(sum: Sum, units: string): Sum {
  if (units.length > EXACT_DIGITS) sum.large += BigInt(units);
  else sum.small += Number(units);
  if (sum.small > EXACT_MAX) {
    sum.large += BigInt(sum.small);
    sum.small = 0;
  }
  return sum;
}

const textOf = ({ small, large }: Sum) => (large === 0n ? String(small) : (large + BigInt(small)).toString());
