import type { UsageEntry } from '@tally/contracts';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createPriceRegistry } from '../src/prices/registry.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;
let merchantId: string;

beforeAll(async () => {
  ingest = await startIngest();
});
beforeEach(() => {
  merchantId = `priced-${merchants++}`;
});
afterAll(() => ingest.close());

const entry = (id: string, more: Partial<UsageEntry> = {}): UsageEntry => ({
  id,
  merchantId,
  time: '2026-11-22T10:00:00Z',
  metrics: { prompt_tokens: '1000', completion_tokens: '10' },
  provider: 'openai',
  model: 'gpt-4o',
  ...more,
});
const record = (...entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });
const setPrice = (component: 'input' | 'output', amount: string, more = {}) =>
  ingest.admin.prices.set.mutate({
    ...{ merchantId, component, amount, per: 1_000_000, validFrom: '2026-01-01T00:00:00Z' },
    ...more,
  });
const explain = (metricType = 'cost') =>
  ingest.admin.usage.explain.query({ merchantId, date: '2026-11-22', metricType });
const costNow = async () => (await ingest.admin.usage.current.query({ merchantId })).metrics.cost;

describe('recording', () => {
  test('prices an event without a cost, and stores the version of the list', async () => {
    await setPrice('input', '2.5');
    const { addedIn } = await setPrice('output', '10');
    expect(await record(entry('a'), entry('b', { metrics: { prompt_tokens: '5', cost: '0' } }))).toMatchObject({
      accepted: 2,
      warnings: [],
    });
    expect(await costNow()).toBe('0.0026');
    const { value, entries } = await explain();
    expect([value, entries.map(({ id, priceVersion, metrics }) => [id, priceVersion, metrics.cost])]).toEqual([
      '0.0026',
      [['a', addedIn, '0.0026']],
    ]);
    const { rows } = await ingest.admin.usage.recent.query({ merchantId });
    expect(rows.map(({ id, priceVersion }) => [id, priceVersion]).sort()).toEqual([
      ['a', addedIn],
      ['b', null],
    ]);
    const scope = { startDate: '2026-11-22', endDate: '2026-11-22', merchantIds: [merchantId] };
    expect(await ingest.admin.reconcile.check.query(scope)).toMatchObject({ balanced: true });
  });

  test('warns of an event without a known price, counts no cost, and lists its model', async () => {
    await setPrice('input', '2.5');
    const { accepted, warnings } = await record(entry('a'), entry('b', { metrics: { prompt_tokens: '4' } }));
    expect([accepted, warnings]).toEqual([
      2,
      [{ index: 0, code: 'UNKNOWN_PRICE', message: expect.stringContaining('gpt-4o') }],
    ]);
    expect(await costNow()).toBe('0.00001');
    await ingest.admin.flush.merchant.mutate({ merchantId });
    const { rows } = await ingest.admin.prices.unpriced.query({
      ...{ startDate: '2026-11-22', endDate: '2026-11-22', merchantIds: [merchantId] },
    });
    expect(rows).toEqual([
      {
        ...{ merchantId, provider: 'openai', model: 'gpt-4o', events: '1' },
        ...{ promptTokens: '1000', completionTokens: '10' },
        ...{ firstTime: '2026-11-22T10:00:00.000Z', lastTime: '2026-11-22T10:00:00.000Z' },
      },
    ]);
    expect((await explain('prompt_tokens')).entries[0]).toMatchObject({ id: 'a', priceVersion: '0' });
  });

  test('prices an event once: a repeat after a change of the list is a repeat, in Redis and in the journal', async () => {
    await setPrice('input', '2.5');
    await setPrice('output', '10');
    await record(entry('a'));
    await setPrice('output', '20');
    expect(await record(entry('a'))).toMatchObject({ accepted: 0, duplicates: 1, rejected: [] });
    await ingest.admin.flush.merchant.mutate({ merchantId });
    // Only the journal decides once Redis has forgotten the id.
    await ingest.redis.flushdb();
    expect(await record(entry('a'))).toMatchObject({ rejected: [] });
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect((await explain()).value).toBe('0.0026');
    const asked = { startDate: '2026-11-22', endDate: '2026-11-22', merchantId };
    expect((await ingest.admin.usage.conflicts.query(asked)).rows).toEqual([]);
    // A cost that the producer sends is content.
    await record(entry('a', { metrics: { prompt_tokens: '1000', completion_tokens: '10', cost: '7' } }));
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect((await ingest.admin.usage.conflicts.query(asked)).rows).toHaveLength(1);
    expect((await explain()).value).toBe('0.0026');
  });

  test('prices by the time of the event, also where it comes late', async () => {
    await setPrice('input', '1');
    await setPrice('input', '2', { validFrom: '2026-11-22T00:00:00Z' });
    const metrics = { prompt_tokens: '1000000' };
    await record(entry('a', { metrics }), entry('b', { metrics, time: '2026-11-21T23:00:00Z' }));
    const of = async (date: string) => (await ingest.admin.usage.current.query({ merchantId, date })).metrics.cost;
    expect([await of('2026-11-21'), await of('2026-11-22')]).toEqual(['1', '2']);
  });
});

describe('the list', () => {
  test('keeps what a price replaced, and answers the same price again without a new version', async () => {
    const first = await setPrice('input', '2.50');
    expect(await setPrice('input', '2.5')).toEqual(first);
    const second = await setPrice('input', '3');
    const listed = async (includeRemoved: boolean) =>
      (await ingest.admin.prices.list.query({ merchantId, includeRemoved })).rows;
    expect(await listed(false)).toEqual([second]);
    expect(await listed(true)).toEqual([{ ...first, removedIn: second.addedIn }, second]);
    const removed = await ingest.admin.prices.remove.mutate({ id: second.id });
    expect(Number(removed.removedIn)).toBeGreaterThan(Number(second.addedIn));
    expect(await ingest.admin.prices.remove.mutate({ id: second.id })).toEqual(removed);
    expect(await listed(false)).toEqual([]);
    await expect(ingest.admin.prices.remove.mutate({ id: '999999' })).rejects.toMatchObject({
      data: { code: 'NOT_FOUND' },
    });
  });

  test('pages through all prices', async () => {
    const all = [
      await setPrice('input', '1'),
      await setPrice('output', '1'),
      await setPrice('input', '1', { model: 'a' }),
    ];
    const first = await ingest.admin.prices.list.query({ merchantId, limit: 2 });
    const second = await ingest.admin.prices.list.query({ merchantId, limit: 2, cursor: first.nextCursor! });
    expect([...first.rows, ...second.rows]).toEqual(all);
    expect(second.nextCursor).toBeNull();
  });

  test('imports list prices once', async () => {
    const call = { source: 'genai-prices' as const, providers: ['cohere'], validFrom: '2026-01-01T00:00:00Z' };
    const first = await ingest.admin.prices.import.mutate(call);
    expect(first.added).toBeGreaterThan(5);
    expect(await ingest.admin.prices.import.mutate(call)).toMatchObject({
      ...{ added: 0, replaced: 0, unchanged: first.added, version: first.version },
    });
  });

  test('imports a newer cost map: what holds stays, and what it no longer has ends', async () => {
    const model = (prices: Record<string, string>) => ({ litellm_provider: merchantId, ...prices });
    const importMap = (map: object, validFrom: string, dryRun = false) =>
      ingest.admin.prices.import.mutate({ source: 'litellm', file: JSON.stringify(map), validFrom, dryRun });
    const old = {
      chat: model({
        input_cost_per_token: '1e-6',
        output_cost_per_token: '2e-6',
        cache_read_input_token_cost: '1e-7',
        input_cost_per_token_above_200k_tokens: '3e-6',
      }),
      gone: model({ input_cost_per_token: '1e-6' }),
    };
    const dry = await importMap(old, '2026-01-01T00:00:00Z', true);
    expect((await ingest.admin.prices.list.query({ provider: merchantId })).rows).toEqual([]);
    const first = await importMap(old, '2026-01-01T00:00:00Z');
    expect(first).toMatchObject({ added: 5, unchanged: 0, ended: 0 });
    expect({ ...first, version: dry.version }).toEqual(dry);
    const fresh = { chat: model({ input_cost_per_token: '1e-6', output_cost_per_token: '4e-6' }) };
    const second = await importMap(fresh, '2026-07-01T00:00:00Z');
    expect(second).toMatchObject({ added: 1, replaced: 0, unchanged: 1, ended: 2 });
    expect(await importMap(fresh, '2026-07-01T00:00:00Z')).toEqual({
      ...second,
      ...{ added: 0, replaced: 0, unchanged: 2, ended: 0 },
    });
    const { rows } = await ingest.admin.prices.list.query({ provider: merchantId });
    expect(
      rows
        .map(({ component, overPromptTokens, amount, validFrom, validTo, model: name }) =>
          [name, component, overPromptTokens, amount, validFrom.slice(0, 7), validTo?.slice(0, 7) ?? null].join(),
        )
        .sort(),
    ).toEqual([
      'chat,cached_input,0,0.1,2026-01,2026-07',
      'chat,input,0,1,2026-01,',
      'chat,input,200000,3,2026-01,2026-07',
      'chat,output,0,2,2026-01,',
      'chat,output,0,4,2026-07,',
      'gone,input,0,1,2026-01,',
    ]);
    // The same time again: what is no longer there was never valid.
    expect(await importMap({ chat: model({ input_cost_per_token: '1e-6' }) }, '2026-07-01T00:00:00Z')).toMatchObject({
      ...{ added: 0, replaced: 0, unchanged: 1, ended: 2 },
    });
    const after = await ingest.admin.prices.list.query({ provider: merchantId, model: 'chat' });
    expect(
      after.rows.filter(({ component }) => component === 'output').map(({ amount, validTo }) => [amount, validTo]),
    ).toEqual([['2', '2026-07-01T00:00:00.000Z']]);
  });

  test('says how many models an import skips, also beyond those that it lists', async () => {
    const skipped = Object.fromEntries(
      Array.from({ length: 1_001 }, (_, n) => [
        `image-${n}`,
        { litellm_provider: merchantId, output_cost_per_image: 1 },
      ]),
    );
    const file = JSON.stringify({ ...skipped, chat: { litellm_provider: merchantId, input_cost_per_token: 1e-6 } });
    const call = { source: 'litellm' as const, file, validFrom: '2026-01-01T00:00:00Z', dryRun: true };
    const answer = await ingest.admin.prices.import.mutate(call);
    expect([answer.added, answer.skippedCount, answer.skipped.length]).toEqual([1, 1_001, 1_000]);
  });

  test('says whether more models have no price than it lists', async () => {
    await setPrice('output', '1');
    const scope = { startDate: '2026-11-22', endDate: '2026-11-22', merchantIds: [merchantId] };
    const unpriced = async () => {
      await ingest.admin.flush.merchant.mutate({ merchantId });
      const { rows, truncated } = await ingest.admin.prices.unpriced.query(scope);
      return [rows.length, truncated];
    };
    await record(...Array.from({ length: 1_000 }, (_, n) => entry(`${n}`, { model: `model-${n}` })));
    expect(await unpriced()).toEqual([1_000, false]);
    await record(entry('last', { model: 'last' }));
    expect(await unpriced()).toEqual([1_000, true]);
  });

  test('reaches other processes within some seconds', async () => {
    const other = await startIngest({}, undefined, ingest);
    await setPrice('input', '1');
    const metrics = { prompt_tokens: '1000000' };
    await expect
      .poll(
        async () => {
          await other.admin.usage.record.mutate({ entries: [entry(crypto.randomUUID(), { metrics })] });
          return costNow();
        },
        { timeout: 30_000 },
      )
      .toBeDefined();
    await other.close();
  });

  test('is read from Redis where Postgres is unavailable, and is unknown where neither has it', async () => {
    await setPrice('input', '1');
    const fail = () => Promise.reject(new Error('no connection'));
    const registry = createPriceRegistry({ store: { version: fail, current: fail }, redis: ingest.redis });
    await registry.refresh();
    const line = {
      ...{ merchant_id: merchantId, date: '2026-11-22', id: 'a', time: Date.parse('2026-11-22T10:00:00Z') },
      prompt_tokens: '2000000',
    };
    expect(registry.current()!.costOf(line)).toBe(2_000_000_000n);
    await ingest.redis.del('registry:prices');
    const without = createPriceRegistry({ store: { version: fail, current: fail }, redis: ingest.redis });
    await expect(without.refresh()).rejects.toThrow('no connection');
    expect(without.current()).toBeUndefined();
  });
});

test.each([
  ['prompt_tokens', 'input'],
  ['completion_tokens', 'output'],
  ['total_tokens', 'input'],
  ['requests', 'request'],
  ['failed_requests', 'request'],
  ['cost', 'cost'],
])('refuses a unit price of %s, which has no units of its own, and says what to do', async (meter, instead) => {
  const price = { component: 'unit', meter, amount: '1', validFrom: '2026-01-01T00:00:00Z' } as const;
  await expect(ingest.admin.prices.set.mutate(price)).rejects.toMatchObject({
    ...{ data: { code: 'INVALID_INPUT' }, message: expect.stringContaining(instead) },
  });
});
