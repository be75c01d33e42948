import { readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';
import { formatCost, parseSignedQuantity, type RealtimeType, type RealtimeValue, TallyError } from '@tally/contracts';
import type { RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import { MERCHANTS, namesKey, seriesKey, valueKey } from './keys.ts';
import { bucketOf, quantilesOf } from './sketch.ts';

export type RealtimeOptions = {
  redis: RedisClient;
  limits: { names: number; seriesPerName: number };
  /** Seconds that a counter or a gauge is kept after its last point. */
  ttlSeconds: number;
  /** Milliseconds between two looks of a watcher. */
  watchMs: number;
  now: () => number;
};

/** A series; merchantId null: the platform's. */
export type Series = { merchantId: string | null; name: string; labels?: Record<string, string> | undefined };

declare module 'ioredis' {
  interface RedisCommander<Context> {
    realtimeWrite(...keysAndArgs: string[]): Result<string, Context>;
  }
}

const NANO = 1_000_000_000n;
const SLICES = 30;
const HISTOGRAM_WINDOW = 300;
const RATE_WINDOW = 60;
const QUANTILES = [0.5, 0.9, 0.95, 0.99];

export type Meta = { at: number; window?: number; unit?: string };
type Point = { add: string[]; set: string[]; meta: Meta; slice?: number; keptSeconds: number };

/**
 * Realtime metrics in Redis: counters and gauges are exact decimals, kept as whole units and nano-units; histograms and
 * rates are slices of a sliding window. A point that is not acknowledged may have been counted: at most once per try.
 */
export function createRealtime({ redis, limits, ttlSeconds, watchMs, now }: RealtimeOptions) {
  redis.defineCommand('realtimeWrite', {
    numberOfKeys: 3,
    lua: readFileSync(new URL('../../lua/realtime-write.lua', import.meta.url), 'utf8'),
  });

  /** Forgets series of a name that have had no point for their time to live; returns how many. */
  async function forget({ merchantId, name }: Series): Promise<number> {
    const oldest = now() - ttlSeconds * 1000;
    const series = Object.entries(await available(redis.hgetall(seriesKey(merchantId, name))));
    const old = series.filter(([, meta]) => (JSON.parse(meta) as Meta).at < oldest).map(([labels]) => labels);
    return old.length === 0 ? 0 : available(redis.hdel(seriesKey(merchantId, name), ...old));
  }

  async function write(series: Series, type: RealtimeType, point: Point): Promise<void> {
    const { add, set, meta, slice, keptSeconds } = point;
    const { merchantId, name } = series;
    const labels = canonical(series.labels);
    // Registered before counted: a merchant that nobody saves could not come back.
    await available(redis.sadd(MERCHANTS, merchantId ?? ''));
    const said = await available(
      redis.realtimeWrite(
        namesKey(merchantId),
        seriesKey(merchantId, name),
        valueKey(merchantId, name, labels, slice),
        name,
        type,
        labels,
        JSON.stringify(meta),
        String(limits.names),
        String(limits.seriesPerName),
        String(Math.max(ttlSeconds, keptSeconds)),
        String(keptSeconds),
        String(add.length / 2),
        ...add,
        ...set,
      ),
    );
    if (said === 'ok') return;
    if (said === 'series' && (await forget(series)) > 0) return write(series, type, point);
    if (said === 'type') throw new TallyError('CONFLICT', `${name} is not a ${type.toLowerCase()}.`);
    if (said === 'sum') throw new TallyError('TOTAL_LIMIT', `The sum of ${name} would become too large.`);
    const limit = said === 'names' ? limits.names : limits.seriesPerName;
    throw new TallyError(
      'CARDINALITY_LIMIT',
      `There are already ${limit} ${said === 'names' ? 'names' : `series of ${name}`}.`,
      {
        details: { limit },
      },
    );
  }

  async function metaOf(series: Series): Promise<Meta | undefined> {
    const text = await available(redis.hget(seriesKey(series.merchantId, series.name), canonical(series.labels)));
    return text === null ? undefined : (JSON.parse(text) as Meta);
  }

  /** The first point of a series settles its window: slices of another width would not add up. */
  async function windowed(series: Series, type: RealtimeType, wanted: number, point: { add: string[]; set: string[] }) {
    const window = (await metaOf(series))?.window ?? wanted;
    const width = widthOf(window);
    const slice = Math.floor(now() / width);
    const keptSeconds = window + Math.ceil(width / 1000) + 1;
    await write(series, type, { ...point, slice, keptSeconds, meta: { at: now(), window } });
  }

  async function slices(series: Series, window: number, seconds: number): Promise<Record<string, string>[]> {
    const width = widthOf(window);
    const last = Math.floor(now() / width);
    const count = Math.max(1, Math.ceil((seconds * 1000) / width));
    const labels = canonical(series.labels);
    const keys = Array.from({ length: count }, (_, index) =>
      valueKey(series.merchantId, series.name, labels, last - index),
    );
    return available(Promise.all(keys.map((key) => redis.hgetall(key))));
  }

  async function get(series: Series, windowSeconds?: number): Promise<RealtimeValue> {
    const type = (await available(redis.hget(namesKey(series.merchantId), series.name))) as RealtimeType | null;
    const meta = type && (await metaOf(series));
    if (!type || !meta)
      throw new TallyError('NOT_FOUND', `There is no realtime metric ${series.name} with these labels.`);
    const base = { name: series.name, type, labels: series.labels ?? {}, asOf: new Date(now()).toISOString() };
    if (type === 'COUNTER' || type === 'GAUGE') {
      const value = await available(redis.hgetall(valueKey(series.merchantId, series.name, canonical(series.labels))));
      return { ...base, value: formatCost(unitsOf(value)), ...(meta.unit !== undefined && { unit: meta.unit }) };
    }
    const window = meta.window ?? RATE_WINDOW;
    const seconds = Math.min(windowSeconds ?? window, window);
    const merged = merge(await slices(series, window, seconds));
    const count = merged.counts.get('count') ?? 0n;
    const counted = { ...base, windowSeconds: seconds, count: count.toString() };
    if (type === 'RATE') return { ...counted, perSecond: formatCost(((count * 1_000_000n) / BigInt(seconds)) * 1000n) };
    if (count === 0n)
      return { ...counted, min: null, max: null, mean: null, p50: null, p90: null, p95: null, p99: null };
    const sum = (merged.counts.get('i') ?? 0n) * NANO + (merged.counts.get('n') ?? 0n);
    const [low, high] = [merged.low!, merged.high!];
    const within = (value: number) => decimalOf(Math.min(Math.max(value, Number(low)), Number(high)));
    const [p50, p90, p95, p99] = quantilesOf(merged.counts, QUANTILES).map(within);
    return { ...counted, min: low, max: high, mean: formatCost(sum / count), p50, p90, p95, p99 };
  }

  return {
    increment: (series: Series, by: string) =>
      write(series, 'COUNTER', { add: split(by), set: [], meta: { at: now() }, keptSeconds: ttlSeconds }),

    gauge(series: Series, value: string, unit?: string) {
      const meta = { at: now(), ...(unit !== undefined && { unit }) };
      return write(series, 'GAUGE', { add: [], set: split(value), meta, keptSeconds: ttlSeconds });
    },

    observe(series: Series, value: string, windowSeconds = HISTOGRAM_WINDOW) {
      const exact = formatCost(parseSignedQuantity('cost', value)!);
      const add = ['count', '1', bucketOf(Number(value)), '1', ...split(value)];
      return windowed(series, 'HISTOGRAM', windowSeconds, { add, set: ['low', exact, 'high', exact] });
    },

    mark: (series: Series, windowSeconds = RATE_WINDOW) =>
      windowed(series, 'RATE', windowSeconds, { add: ['count', '1'], set: [] }),

    get,

    /** Names with their labels; series without a point for the time to live are left out. */
    async list(merchantId: string | null) {
      const names = Object.entries(await available(redis.hgetall(namesKey(merchantId)))).sort();
      const oldest = now() - ttlSeconds * 1000;
      const rows = await Promise.all(
        names.map(async ([name, type]) =>
          Object.entries(await available(redis.hgetall(seriesKey(merchantId, name))))
            .filter(([, meta]) => (JSON.parse(meta) as Meta).at >= oldest)
            .sort()
            .map(([labels]) => ({
              name,
              type: type as RealtimeType,
              labels: Object.fromEntries(JSON.parse(labels) as [string, string][]),
            })),
        ),
      );
      return rows.flat();
    },

    /** The value now and whenever it changes; ends when the client goes. */
    async *watch(series: Series, windowSeconds: number | undefined, signal: AbortSignal | undefined) {
      let last = '';
      while (!signal?.aborted) {
        const value = await get(series, windowSeconds);
        const seen = JSON.stringify({ ...value, asOf: '' });
        if (seen !== last) yield value;
        last = seen;
        await wait(watchMs, undefined, signal ? { signal } : {}).catch(() => {});
      }
    },
  };
}

export type Realtime = ReturnType<typeof createRealtime>;

/** Labels in one order, so that the same ones are the same series. */
const canonical = (labels: Record<string, string> = {}): string => JSON.stringify(Object.entries(labels).sort());

/** Milliseconds of one slice. */
const widthOf = (window: number): number => Math.max(100, Math.ceil((window * 1000) / SLICES));

/** The slices of a window that are not yet over, newest first. */
export function slicesKept(window: number, now: number): number[] {
  const last = Math.floor(now / widthOf(window));
  return Array.from({ length: Math.ceil((window * 1000) / widthOf(window)) + 1 }, (_, index) => last - index);
}

/** Whole units and nano-units apart: each is far from the end of 64 bits. */
function split(value: string): string[] {
  const units = parseSignedQuantity('cost', value)!;
  return ['i', (units / NANO).toString(), 'n', (units % NANO).toString()];
}

const unitsOf = (hash: Record<string, string>) => BigInt(hash.i ?? 0) * NANO + BigInt(hash.n ?? 0);

function merge(hashes: readonly Record<string, string>[]) {
  const counts = new Map<string, bigint>();
  let low: string | undefined;
  let high: string | undefined;
  for (const { low: own, high: top, ...fields } of hashes) {
    for (const [field, count] of Object.entries(fields)) counts.set(field, (counts.get(field) ?? 0n) + BigInt(count));
    if (own !== undefined && (low === undefined || Number(own) < Number(low))) low = own;
    if (top !== undefined && (high === undefined || Number(top) > Number(high))) high = top;
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

async function available<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    throw new TallyError('UNAVAILABLE', 'Redis does not answer.', { cause: error });
  }
}
