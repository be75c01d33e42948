import { setTimeout as wait } from 'node:timers/promises';
import { formatCost, parseSignedQuantity, type RealtimeType, type RealtimeValue, TallyError } from '@tally/contracts';
import { bucketOf, quantilesOf } from '@tally/db';
import { decodeCursor, encodeCursor, type RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { z } from 'zod';
import { markerKey, namesKey, OWNERS, seriesKey, valueKey } from './keys.ts';
import { createMerger } from './merge.ts';
import { script } from './scripts.ts';

export type RealtimeOptions = {
  redis: RedisClient;
  limits: { names: number; seriesPerName: number };
  /** Seconds that a series is kept after its last point; one with a longer window is kept for its window. */
  ttlSeconds: number;
  /** Milliseconds between two polls of a watcher. */
  watchMs: number;
  now: () => number;
  /** Restores a merchant's metrics if Redis lost them; nothing is counted before. */
  restore(merchantId: string | null): Promise<unknown>;
  /** Called when points were stored. */
  onStored?(type: RealtimeType, points: number): void;
  /** Concurrent watchers of this process, and of one caller. */
  maxWatchers?: { all: number; perCaller: number };
  /** Called with the number of watchers when it changes. */
  onWatchers?(count: number): void;
};

/** A series; merchantId null: of the platform. */
export type Series = { merchantId: string | null; name: string; labels?: Record<string, string> | undefined };

declare module 'ioredis' {
  interface RedisCommander<Context> {
    realtimeWrite(numberOfKeys: number, ...keysAndArgs: string[]): Result<string[], Context>;
    realtimeForget(...keysAndArgs: string[]): Result<[series: number, name: number], Context>;
  }
}

const NANO = 1_000_000_000n;
const SLICES = 30;
const HISTOGRAM_WINDOW = 300;
const RATE_WINDOW = 60;
const QUANTILES = [0.5, 0.9, 0.95, 0.99];
/** The largest amount of one call: added to the largest allowed sum of a field, it stays below 2^63. */
const MAX_ADDED = 8n * 10n ** 18n * NANO;
const MAX_ATTEMPTS = 5;
/** Names whose series are read at once for a list. */
const NAMES_AT_ONCE = 32;
/** Arguments of one call of the script: it blocks Redis, for a few milliseconds at this number. */
const MAX_ARGUMENTS = 4_000;
/** A merchant's registration is repeated after this time: its node may lose it while others lose nothing. */
const REGISTERED_MS = 1_000;

/** Name and labels of the last series of a page. */
const Place = z.tuple([z.string(), z.string()]);

export type Meta = { at: number; window?: number; unit?: string };

/** Merged points of one series: amounts to add, and values to set. */
type Points = {
  series: Series;
  type: RealtimeType;
  count: number;
  /** Nano-units: amounts added to a counter or histogram, or the value of a gauge. */
  sum: bigint;
  buckets: Map<string, number>;
  low?: bigint;
  high?: bigint;
  window?: number;
  unit?: string;
};

/** Points of one series being sent to Redis, and the script's answer. */
type Write = { keys: [series: string, value: string]; args: string[]; answer?: string };
/** Writes of one merchant that share a call. */
type Call = { merchantId: string | null; writes: Write[]; size: number };

/**
 * Realtime metrics in Redis: counters and gauges are exact decimals, stored as whole units and nano-units; histograms
 * and rates are slices of a sliding window. An unacknowledged point may have been counted, at most once per try.
 */
export function createRealtime({
  redis,
  limits,
  ttlSeconds,
  watchMs,
  now,
  restore,
  onStored = () => {},
  maxWatchers = { all: 1_000, perCaller: 1_000 },
  onWatchers = () => {},
}: RealtimeOptions) {
  redis.defineCommand('realtimeWrite', { lua: script('realtime-write') });
  redis.defineCommand('realtimeForget', { numberOfKeys: 2, lua: script('realtime-forget') });

  const places = createPlaces(maxWatchers, onWatchers);
  let registered = { at: 0, merchants: new Set<string | null>() };
  /** Points of a series merge while others of it are being sent; writes of a merchant's series share a call. */
  const fold = createMerger<Points>({ merge, store });
  const send = createMerger<Call>({ merge: join, store: call });
  const write = (points: Points): Promise<void> => {
    const { series, type, window } = points;
    return fold(JSON.stringify([type, window, series.merchantId, series.name, canonical(series.labels)]), points);
  };

  async function store(points: Points): Promise<void> {
    const { series, type } = points;
    const { merchantId, name } = series;
    let { window } = points;
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const own = writeOf(points, window);
      await send(merchantId ?? '', { merchantId, writes: [own], size: own.args.length });
      const answer = own.answer!;
      if (answer === 'ok') return onStored(type, points.count);
      if (answer === 'type') throw new TallyError('CONFLICT', `${name} is not a ${type.toLowerCase()}.`);
      if (answer === 'sum') throw new TallyError('TOTAL_LIMIT', `The sum of ${name} would become too large.`);
      if (answer === 'lost') await available(restore(merchantId));
      // The first point of a series fixes its window: slices of another width would not add up.
      else if (answer.startsWith('window ')) window = Number(answer.slice('window '.length));
      else if (!(await makeRoom(merchantId, answer === 'names' ? undefined : name))) {
        const [limit, of] = answer === 'names' ? [limits.names, 'names'] : [limits.seriesPerName, `series of ${name}`];
        throw new TallyError('CARDINALITY_LIMIT', `There are already ${limit} ${of}.`, { details: { limit } });
      }
    }
    throw new TallyError('UNAVAILABLE', `Redis lost its data ${MAX_ATTEMPTS} times in a row.`);
  }

  /** One script call for writes of a merchant whose metrics are complete; otherwise nothing is counted. */
  async function call({ merchantId, writes }: Call): Promise<void> {
    const keys = [markerKey(merchantId), namesKey(merchantId), ...writes.flatMap((each) => each.keys)];
    const args = [String(limits.names), String(limits.seriesPerName), ...writes.flatMap((each) => each.args)];
    await register(merchantId);
    const answer = await available(redis.realtimeWrite(keys.length, ...keys, ...args));
    writes.forEach((each, index) => {
      each.answer = answer[index]!;
    });
  }

  async function register(merchantId: string | null): Promise<void> {
    if (now() - registered.at >= REGISTERED_MS) registered = { at: now(), merchants: new Set() };
    const { merchants } = registered;
    if (merchants.has(merchantId)) return;
    await available(redis.zadd(OWNERS, now(), merchantId ?? ''));
    merchants.add(merchantId);
  }

  function writeOf({ series, type, count, sum, buckets, low, high, unit }: Points, window: number | undefined): Write {
    const { merchantId, name } = series;
    const labels = canonical(series.labels);
    const width = window === undefined ? 0 : widthOf(window);
    const slice = window === undefined ? undefined : sliceAt(now(), width);
    // A query reads up to one slice more than the window has.
    const keptSeconds = window === undefined ? ttlSeconds : window + Math.ceil((2 * width) / 1000) + 1;
    const meta: Meta = { at: now(), ...(window !== undefined && { window }), ...(unit !== undefined && { unit }) };
    const amount = ['i', (sum / NANO).toString(), 'n', (sum % NANO).toString()];
    const counts = type === 'HISTOGRAM' || type === 'RATE' ? ['count', String(count)] : [];
    for (const [bucket, times] of buckets) counts.push(bucket, String(times));
    const added = type === 'GAUGE' || type === 'RATE' ? counts : [...counts, ...amount];
    const set = type === 'GAUGE' ? amount : [];
    if (low !== undefined && high !== undefined) set.push('low', sortable(low), 'high', sortable(high));
    return {
      keys: [seriesKey(merchantId, name), valueKey(merchantId, name, labels, slice)],
      args: [
        name,
        type,
        labels,
        JSON.stringify(meta),
        window === undefined ? '' : String(window),
        String(keptSeconds),
        String(Math.max(ttlSeconds, keptSeconds)),
        String(added.length / 2),
        String(set.length / 2),
        ...added,
        ...set,
      ],
    };
  }

  /** Removes series whose time to live is over, of one name or of all; returns true if that freed space. */
  async function makeRoom(merchantId: string | null, name: string | undefined): Promise<boolean> {
    const forgotten = await forget(merchantId, name === undefined ? undefined : [name]);
    return name === undefined ? forgotten.names > 0 : forgotten.series > 0;
  }

  async function forget(merchantId: string | null, of?: string[]): Promise<{ series: number; names: number }> {
    const kept = [String(now()), String(ttlSeconds * 1000)];
    const forgotten = { series: 0, names: 0 };
    for (const name of of ?? (await available(redis.hkeys(namesKey(merchantId))))) {
      const [series, names] = await available(
        redis.realtimeForget(namesKey(merchantId), seriesKey(merchantId, name), name, ...kept),
      );
      forgotten.series += series;
      forgotten.names += names;
    }
    return forgotten;
  }

  async function metaOf(series: Series): Promise<Meta | undefined> {
    const text = await available(redis.hget(seriesKey(series.merchantId, series.name), canonical(series.labels)));
    return text === null ? undefined : (JSON.parse(text) as Meta);
  }

  /** Reads whole slices: the fewest that cover the given seconds. `spanMs` is the time that they cover. */
  async function slices(series: Series, window: number, seconds: number) {
    const width = widthOf(window);
    const last = sliceAt(now(), width);
    const current = now() - last * width;
    const before = Math.max(0, Math.ceil((seconds * 1000 - current) / width));
    const labels = canonical(series.labels);
    const keys = Array.from({ length: before + 1 }, (_, index) =>
      valueKey(series.merchantId, series.name, labels, last - index),
    );
    const hashes = await available(Promise.all(keys.map((key) => redis.hgetall(key))));
    return { hashes, spanMs: before * width + current };
  }

  async function get(series: Series, windowSeconds?: number): Promise<RealtimeValue> {
    const look = async () => {
      const type = (await available(redis.hget(namesKey(series.merchantId), series.name))) as RealtimeType | null;
      return { type, meta: type && (await metaOf(series)) };
    };
    let { type, meta } = await look();
    if (!meta) {
      await restore(series.merchantId).catch(() => {});
      ({ type, meta } = await look());
    }
    const absent = () =>
      new TallyError('NOT_FOUND', `There is no realtime metric ${series.name} with these labels, or it has expired.`);
    if (!type || !meta) throw absent();
    const base = { name: series.name, type, labels: series.labels ?? {}, asOf: new Date(now()).toISOString() };
    if (type === 'COUNTER' || type === 'GAUGE') {
      const value = await available(redis.hgetall(valueKey(series.merchantId, series.name, canonical(series.labels))));
      if (value.i === undefined) throw absent();
      return { ...base, value: formatCost(unitsOf(value)), ...(meta.unit !== undefined && { unit: meta.unit }) };
    }
    const window = meta.window ?? RATE_WINDOW;
    const { hashes, spanMs } = await slices(series, window, Math.min(windowSeconds ?? window, window));
    const merged = mergeSlices(hashes);
    const count = merged.counts.get('count') ?? 0n;
    const counted = { ...base, windowSeconds: spanMs / 1000, count: count.toString() };
    if (type === 'RATE')
      return { ...counted, perSecond: formatCost(rounded(count * 1_000_000_000n, BigInt(spanMs)) * 1000n) };
    if (count === 0n)
      return { ...counted, min: null, max: null, mean: null, p50: null, p90: null, p95: null, p99: null };
    const sum = (merged.counts.get('i') ?? 0n) * NANO + (merged.counts.get('n') ?? 0n);
    const [low, high] = [merged.low!, merged.high!];
    const [min, max] = [formatCost(low), formatCost(high)];
    const within = (value: number) => {
      const decimal = decimalOf(value);
      if (Number(decimal) <= Number(min)) return min;
      return Number(decimal) >= Number(max) ? max : decimal;
    };
    const [p50, p90, p95, p99] = quantilesOf(merged.counts, QUANTILES).map(within);
    return { ...counted, min, max, mean: formatCost(rounded(sum, count)), p50, p90, p95, p99 };
  }

  return {
    increment: (series: Series, by: string) =>
      write({ series, type: 'COUNTER', count: 1, sum: unitsIn(by), buckets: new Map() }),

    gauge: (series: Series, value: string, unit?: string) =>
      write({
        series,
        type: 'GAUGE',
        count: 1,
        sum: unitsIn(value),
        buckets: new Map(),
        ...(unit !== undefined && { unit }),
      }),

    observe: (series: Series, values: readonly string[], window = HISTOGRAM_WINDOW) =>
      write({ series, type: 'HISTOGRAM', window, ...folded(values) }),

    mark: (series: Series, count = 1, window = RATE_WINDOW) =>
      write({ series, type: 'RATE', window, count, sum: 0n, buckets: new Map() }),

    forget,

    get,

    /** Returns names with their labels, page by page, without expired series. */
    async list(merchantId: string | null, { limit, cursor }: { limit: number; cursor?: string | undefined }) {
      const [after, behind] = cursor === undefined ? ['', ''] : decodeCursor(cursor, merchantId, Place);
      const names = Object.entries(await available(redis.hgetall(namesKey(merchantId))))
        .filter(([name]) => name >= after)
        .sort(byKey);
      const isKept = ({ at, window = 0 }: Meta) => at + Math.max(ttlSeconds, window) * 1000 >= now();
      const rows: { name: string; type: RealtimeType; labels: string }[] = [];
      for (let from = 0; from < names.length && rows.length < limit; from += NAMES_AT_ONCE) {
        const found = names.slice(from, from + NAMES_AT_ONCE).map(async ([name, type]) =>
          Object.entries(await available(redis.hgetall(seriesKey(merchantId, name))))
            .filter(([labels, meta]) => (name > after || labels > behind) && isKept(JSON.parse(meta) as Meta))
            .sort(byKey)
            .map(([labels]) => ({ name, type: type as RealtimeType, labels })),
        );
        rows.push(...(await Promise.all(found)).flat());
      }
      const page = rows.slice(0, limit);
      const last = page.length === limit ? page.at(-1)! : undefined;
      return {
        rows: page.map(({ labels, ...row }) => ({
          ...row,
          labels: Object.fromEntries(JSON.parse(labels) as [string, string][]),
        })),
        nextCursor: last ? encodeCursor([last.name, last.labels], merchantId) : null,
      };
    },

    /**
     * Yields the value now and whenever it changes; ends when the client leaves. Throws RATE_LIMITED if all slots, or
     * those of the caller, are taken.
     */
    async *watch(series: Series, windowSeconds: number | undefined, callerId: string, signal: AbortSignal) {
      const leave = places.take(callerId);
      try {
        let last = '';
        while (!signal.aborted) {
          const value = await get(series, windowSeconds);
          // The span of a window moves all the time; that is no change by itself.
          const seen = JSON.stringify({ ...value, asOf: '', windowSeconds: 0, perSecond: '' });
          if (seen !== last) yield value;
          last = seen;
          await wait(watchMs, undefined, { signal }).catch(() => {});
        }
      } finally {
        leave();
      }
    },
  };
}

export type Realtime = ReturnType<typeof createRealtime>;

/** Slots of watchers: a number in total, and a number per caller. */
function createPlaces({ all, perCaller }: { all: number; perCaller: number }, onChange: (count: number) => void) {
  const ofCaller = new Map<string, number>();
  let taken = 0;
  return {
    /** Takes a slot, and returns the function that frees it. */
    take(callerId: string): () => void {
      const own = ofCaller.get(callerId) ?? 0;
      if (own >= perCaller) throw noPlace(perCaller, `At most ${perCaller} watchers of one key.`);
      if (taken >= all) throw noPlace(all, `There are already ${all} watchers here.`);
      ofCaller.set(callerId, own + 1);
      onChange(++taken);
      return () => {
        const left = ofCaller.get(callerId)! - 1;
        if (left > 0) ofCaller.set(callerId, left);
        else ofCaller.delete(callerId);
        onChange(--taken);
      };
    },
  };
}

const noPlace = (limit: number, message: string) =>
  new TallyError('RATE_LIMITED', message, { details: { limit, retryAfter: 10 } });

const byKey = ([a]: [string, string], [b]: [string, string]): number => (a < b ? -1 : 1);

/** Sorts labels, so that equal ones are the same series. */
const canonical = (labels: Record<string, string> = {}): string => JSON.stringify(Object.entries(labels).sort());

/** Milliseconds of one slice. */
const widthOf = (window: number): number => Math.max(100, Math.ceil((window * 1000) / SLICES));

/** The number of the slice of a moment. A slice includes its end and not its start. */
const sliceAt = (ms: number, width: number): number => Math.ceil(ms / width) - 1;

/** The slices that a query of a window can read, newest first. */
export function slicesKept(window: number, now: number): number[] {
  const last = sliceAt(now, widthOf(window));
  return Array.from({ length: Math.ceil((window * 1000) / widthOf(window)) + 1 }, (_, index) => last - index);
}

const unitsIn = (value: string): bigint => parseSignedQuantity('cost', value)!;

/** Merges values of a histogram into one point. */
function folded(values: readonly string[]): Pick<Points, 'count' | 'sum' | 'buckets' | 'low' | 'high'> {
  const buckets = new Map<string, number>();
  let [low, high] = [unitsIn(values[0]!), unitsIn(values[0]!)];
  let sum = 0n;
  for (const value of values) {
    const units = unitsIn(value);
    const bucket = bucketOf(Number(value));
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
    sum += units;
    if (units < low) low = units;
    if (units > high) high = units;
  }
  return { count: values.length, sum, buckets, low, high };
}

/** Merges a point into others of its series; returns false if the sum would exceed the limit of one call. */
function merge(into: Points, point: Points): boolean {
  if (point.type === 'GAUGE') {
    Object.assign(into, { sum: point.sum, unit: point.unit, count: into.count + point.count });
    return true;
  }
  const sum = into.sum + point.sum;
  if (sum > MAX_ADDED || sum < -MAX_ADDED) return false;
  into.sum = sum;
  into.count += point.count;
  for (const [bucket, times] of point.buckets) into.buckets.set(bucket, (into.buckets.get(bucket) ?? 0) + times);
  if (point.low !== undefined && (into.low === undefined || point.low < into.low)) into.low = point.low;
  if (point.high !== undefined && (into.high === undefined || point.high > into.high)) into.high = point.high;
  return true;
}

/** Lets a write share the call of others of its merchant; returns false if that call would become too long. */
function join(into: Call, { writes, size }: Call): boolean {
  if (into.size + size > MAX_ARGUMENTS) return false;
  into.writes.push(...writes);
  into.size += size;
  return true;
}

/** Writes nano-units as texts of one length whose order is that of the numbers: Lua's numbers are too short. */
const OFFSET = 10n ** 24n;
const sortable = (units: bigint): string => (units + OFFSET).toString().padStart(25, '0');
const unsorted = (text: string): bigint => BigInt(text) - OFFSET;

const unitsOf = (hash: Record<string, string>) => BigInt(hash.i ?? 0) * NANO + BigInt(hash.n ?? 0);

function mergeSlices(hashes: readonly Record<string, string>[]) {
  const counts = new Map<string, bigint>();
  let low: bigint | undefined;
  let high: bigint | undefined;
  for (const { low: own, high: top, ...fields } of hashes) {
    for (const [field, count] of Object.entries(fields)) counts.set(field, (counts.get(field) ?? 0n) + BigInt(count));
    if (own !== undefined && (low === undefined || unsorted(own) < low)) low = unsorted(own);
    if (top !== undefined && (high === undefined || unsorted(top) > high)) high = unsorted(top);
  }
  return { counts, low, high };
}

/** An estimate as a decimal of 6 significant digits, without an exponent. */
function decimalOf(value: number): string {
  const rounded = Number(value.toPrecision(6));
  return Number.isInteger(rounded)
    ? BigInt(rounded).toString()
    : rounded.toFixed(12).replace(/0+$/, '').replace(/\.$/, '');
}

/** Divides by a whole number above 0, half away from zero. */
function rounded(dividend: bigint, divisor: bigint): bigint {
  const size = (2n * (dividend < 0n ? -dividend : dividend) + divisor) / (2n * divisor);
  return dividend < 0n ? -size : size;
}

/** Converts the error of an unavailable store to a code. */
async function available<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    throw new TallyError('UNAVAILABLE', 'Redis, the store of realtime metrics, does not answer.', { cause: error });
  }
}
