import { MAX_SUM_UNITS } from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import { createRedis, redisReady } from '@tally/service';
import { freshRedis, runsOf, startRelay } from '@tally/testkit';
import slotOf from 'cluster-key-slot';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Counters, createCounters } from '../src/counters/counters.ts';
import { createRedisKeys, parseTotalKey, type RedisKeys } from '../src/counters/keys.ts';
import { createDeduplicationWindow } from '../src/counters/window.ts';

const DAY = '2026-11-22';
const LIMITS = { typesPerDay: 3, waitReplicas: 0 };

let store: Awaited<ReturnType<typeof freshRedis>>;
let redis: Redis;
let keys: RedisKeys;
let counters: Counters;
let names = 0;

beforeAll(async () => {
  store = await freshRedis();
  redis = createRedis(store.url) as Redis;
  await redisReady(redis);
  keys = createRedisKeys({ shards: 8, clustered: false });
  counters = createCounters(redis, keys, LIMITS, { cutSize: () => 3 });
});
afterAll(async () => {
  redis.disconnect();
  await store.drop();
});

const lineOf = (merchantId: string, id: string, amounts: Record<string, string>): JournalLine => ({
  merchant_id: merchantId,
  date: DAY,
  id,
  time: 0,
  metrics: amounts,
});

async function totalsOf(merchantId: string): Promise<Record<string, string>> {
  const { days } = await counters.readDays(keys.shardOf(merchantId), [{ merchantId, date: DAY, metricTypes: [] }]);
  return Object.fromEntries([...days[0]!.totals].map(([type, units]) => [type, units.toString()]).sort());
}

async function idsInStream(merchantIds: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const shard of new Set(merchantIds.map(keys.shardOf))) {
    const items = await counters.oldestItems(shard, { after: null, until: '+' }, { events: 1e9, bytes: 1e9 });
    const lines = items.flatMap((item) => item.lines.split('\n').map((text) => JSON.parse(text) as JournalLine));
    for (const line of lines) if (merchantIds.includes(line.merchant_id)) found.push(`${line.merchant_id} ${line.id}`);
  }
  return found.sort();
}

test('the lives of all shards take two commands, and know a shard that is repaired', async () => {
  const { run } = (await counters.lives())[0]!;
  await counters.markRepaired(3, run, 'begin');
  await counters.markRepaired(3, run, 'end');
  const sent = vi.spyOn(redis, 'sendCommand');
  const lives = await counters.lives();
  expect(sent.mock.calls.map(([{ name }]) => name).sort()).toEqual(['info', 'mget']);
  sent.mockRestore();
  expect(lives).toEqual(Array.from({ length: 8 }, (_, shard) => ({ run, repaired: shard === 3 })));
});

test('adds a difference once, though its answer was lost or it comes late', async () => {
  const address = new URL(store.url);
  const relay = await startRelay({ host: address.hostname, port: Number(address.port) });
  address.host = `127.0.0.1:${relay.port}`;
  const through = createRedis(address.toString()) as Redis;
  try {
    await redisReady(through);
    const own = createCounters(through, keys, LIMITS, { cutSize: () => 3 });
    const shard = keys.shardOf('repaired');
    const difference = (units: bigint) => [{ merchantId: 'repaired', date: DAY, metricType: 'a', units }] as const;
    const first = await own.repairs(shard);
    expect(await own.addDifferences(shard, first, difference(10n))).toBe(true);
    const second = await own.repairs(shard);
    const lost = relay.loseAnswer(keys.repairs(shard));
    // It was added, and says that it must be looked at again.
    expect(await own.addDifferences(shard, second, difference(-3n))).toBe(false);
    await lost;
    expect(await own.addDifferences(shard, first, difference(10n))).toBe(false);
    expect(await totalsOf('repaired')).toEqual({ a: '7' });
  } finally {
    through.disconnect();
    relay.close();
  }
});

describe('a gathered call', () => {
  const event = fc.record({
    merchant: fc.integer({ min: 0, max: 2 }),
    id: fc.integer({ min: 0, max: 5 }),
    amounts: fc.dictionary(
      fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      fc.constantFrom('1', '7', '1000000000000000', (MAX_SUM_UNITS / 2n).toString(), MAX_SUM_UNITS.toString()),
      { minKeys: 1, maxKeys: 3 },
    ),
  });
  const request = fc.array(event, { minLength: 1, maxLength: 4 });

  test('answers every request as if it had come by itself', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 5 }), async (requests) => {
        const [gathered, alone] = [names++, names++];
        const linesOf = (name: number) =>
          requests.map((own) => own.map((each) => lineOf(`m${name}-${each.merchant}`, `e${each.id}`, each.amounts)));
        // The first call is under way while the others are gathered.
        const before = counters.record([lineOf(`m${gathered}-0`, 'first', { a: '1' })]);
        const answers = await Promise.all(linesOf(gathered).map((lines) => counters.record(lines)));
        await before;
        const expected = [];
        await counters.record([lineOf(`m${alone}-0`, 'first', { a: '1' })]);
        for (const lines of linesOf(alone)) {
          // Event by event is what a request answers, too.
          const own = [];
          for (const line of lines) own.push(...(await counters.record([line])));
          expected.push(own);
        }
        expect(answers).toEqual(expected);
        const merchants = (name: number) => [0, 1, 2].map((each) => `m${name}-${each}`);
        for (const each of [0, 1, 2]) {
          expect(await totalsOf(`m${gathered}-${each}`)).toEqual(await totalsOf(`m${alone}-${each}`));
        }
        const rename = (ids: string[]) => ids.map((id) => id.replace(/^m\d+/, 'm'));
        expect(rename(await idsInStream(merchants(gathered)))).toEqual(rename(await idsInStream(merchants(alone))));
      }),
      { numRuns: runsOf({ short: 50, long: 200 }) },
    );
  });

  test('of a total that is no number leaves the events of that total to Postgres, and stores the others', async () => {
    const [bad, good] = [`bad-${names++}`, `good-${names++}`];
    await redis.set(`usage:${bad}:${DAY}:a`, 'text');
    const answers = await Promise.all([
      counters.record([lineOf(bad, '1', { b: '1', a: '1' })]),
      counters.record([lineOf(good, '1', { a: '1' }), lineOf(bad, '2', { b: '5' })]),
    ]);
    expect(answers).toEqual([['unusable'], [undefined, undefined]]);
    expect(await redis.get(`usage:${bad}:${DAY}:b`)).toBe('5');
    expect(await totalsOf(good)).toEqual({ a: '1' });
  });

  test('of several contents of an id stores the first that it can, and knows the one that it has', async () => {
    const merchantId = `contested-${names++}`;
    const some = (...amounts: string[]) => amounts.map((a) => lineOf(merchantId, '1', { a }));
    const send = (lines: JournalLine[]) => counters.record(lines, undefined, new Set(lines));
    const tooMuch = (MAX_SUM_UNITS + 1n).toString();
    expect(await send(some(tooMuch, '5', '7'))).toEqual(['limit', undefined, 'conflict']);
    expect(await send(some('7', '5', '8'))).toEqual(['conflict', 'repeat', 'conflict']);
    // More than one call takes, in one call all the same.
    const large = ['6', '5'].map((a) => ({ ...some(a)[0]!, properties: { text: 'x'.repeat(1_100_000) } }));
    expect(await send([...large, ...some('5')])).toEqual(['conflict', 'conflict', 'repeat']);
    expect(await totalsOf(merchantId)).toEqual({ a: '5' });
  });

  test('sets the expiry of a total only when it creates it', async () => {
    const merchantId = `expiry-${names++}`;
    await counters.record([lineOf(merchantId, '1', { a: '1' })]);
    const key = `usage:${merchantId}:${DAY}:a`;
    expect(await redis.ttl(key)).toBeGreaterThan(0);
    await redis.persist(key);
    await counters.record([lineOf(merchantId, '2', { a: '1' })]);
    expect(await redis.ttl(key)).toBe(-1);
  });

  test('splits a request that is larger than a call may be', async () => {
    const merchantId = `large-${names++}`;
    const lines = Array.from({ length: 30 }, (_, index) => ({
      ...lineOf(merchantId, `${index}`, { a: '1' }),
      properties: { text: 'x'.repeat(100_000) },
    }));
    expect(await counters.record(lines)).toEqual(lines.map(() => undefined));
    expect(await totalsOf(merchantId)).toEqual({ a: '30' });
  });
});

describe('keys', () => {
  const merchant = fc.oneof(
    fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme' }),
    fc.constantFrom('acme', 'a:2026-11-22:b', '{x}', 'a%7Bb', 'https://x.org/?q={1} 2', 'a@b.c', 'ü🙂'),
  );

  test('of totals are read back from their right end, whatever the merchant is called', () => {
    for (const clustered of [false, true]) {
      const own = createRedisKeys({ shards: 64, clustered });
      fc.assert(
        fc.property(merchant, (merchantId) => {
          const { prefix, suffix } = own.total(merchantId, DAY);
          const key = `${prefix}prompt_tokens${suffix}`;
          expect(key).not.toMatch(/\s/u);
          expect(parseTotalKey(key)).toEqual({ merchantId, date: DAY, metricType: 'prompt_tokens' });
        }),
      );
    }
  });

  test('are named as documented on one Redis', () => {
    expect(keys.total('acme', DAY)).toEqual({ prefix: `usage:acme:${DAY}:`, suffix: '' });
  });

  test('of a cluster lie in the slot of their shard, and the shards in slots that spread evenly', () => {
    const own = createRedisKeys({ shards: 64, clustered: true });
    const slots = new Set<number>();
    for (let shard = 0; shard < 64; shard++) {
      const slot = slotOf(own.journal(shard));
      expect(Math.floor(slot / 256)).toBe(shard);
      slots.add(slot);
    }
    expect(slots.size).toBe(64);
    const { prefix, suffix } = own.total('acme', DAY);
    expect(slotOf(`${prefix}queries${suffix}`)).toBe(slotOf(own.journal(own.shardOf('acme'))));
  });

  test('the shard of a merchant never changes', () => {
    const own = createRedisKeys({ shards: 64, clustered: false });
    expect(['acme', 'merchant-7', 'ü🙂'].map(own.shardOf)).toMatchInlineSnapshot(`
      [
        62,
        30,
        25,
      ]
    `);
  });
});

describe('the deduplication window', () => {
  test('drops the globally oldest ids beyond its memory, never ids that are not flushed', async () => {
    await redis.flushdb();
    const window = createDeduplicationWindow(redis, keys, 0);
    const merchants = ['one', 'two', 'three'];
    for (let round = 0; round < 30; round++) {
      for (const merchantId of merchants) {
        expect(await counters.record([lineOf(merchantId, `${round}`, { a: '1' })])).toEqual([undefined]);
      }
    }
    expect((await window.look()).dropped).toBe(0);
    expect(await counters.record([lineOf('one', '0', { a: '1' })])).toEqual(['repeat']);
    for (const shard of new Set(merchants.map(keys.shardOf))) {
      const items = await counters.oldestItems(shard, { after: null, until: '+' }, { events: 1e9, bytes: 1e9 });
      await counters.remove(
        shard,
        items.map((item) => ({ item, repeats: [] })),
      );
    }
    const report = await window.look();
    expect(report.dropped).toBeGreaterThan(0);
    expect(await counters.record([lineOf('one', '0', { a: '1' })])).toEqual([undefined]);
    expect(await counters.record([lineOf('one', '0', { a: '1' })])).toEqual(['repeat']);
  });

  test('has at most 16 generations per shard', async () => {
    await redis.flushdb();
    for (let round = 0; round < 200; round++) {
      await counters.record(Array.from({ length: 20 }, (_, id) => lineOf('busy', `${round}-${id}`, { a: '1' })));
    }
    expect(await redis.llen(keys.window(keys.shardOf('busy')))).toBeLessThanOrEqual(16);
  });
});
