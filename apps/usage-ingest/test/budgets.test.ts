import { formatCost, type UsageEntry } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createBudgetRegistry } from '../src/budgets/registry.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;
let merchantId: string;

beforeAll(async () => {
  ingest = await startIngest();
});
beforeEach(() => {
  merchantId = `budgeted-${merchants++}`;
});
afterAll(() => ingest.close());

type Create = Parameters<IngestClient['budgets']['create']['mutate']>[0];
const create = (limit: string, more: Partial<Create> = {}) =>
  ingest.admin.budgets.create.mutate({
    ...{ scope: { merchantId }, measure: 'cost', limit, period: 'month', enforcement: 'hard' },
    ...more,
  });
const reserve = (id: string, cost: string, more: object = {}) =>
  ingest.admin.budgets.reserve.mutate({ id, merchantId, amounts: { cost }, ...more });
const entry = (id: string, cost: string, more: Partial<UsageEntry> = {}): UsageEntry => ({
  ...{ id, merchantId, time: '2026-11-22T10:00:00Z', metrics: { cost } },
  ...more,
});
const record = (...entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });
const settle = (id: string, used?: UsageEntry) =>
  ingest.admin.budgets.settle.mutate({ reservationId: `${merchantId}/${id}`, ...(used && { entry: used }) });
const status = async (id: string) => (await ingest.admin.budgets.status.query({ id })).rows[0]!;
const spentOf = async (id: string) => {
  const { spent, reserved, complete } = await status(id);
  return { spent, reserved, complete };
};
const flush = () => ingest.admin.flush.run.mutate({});
/** Waits until the notes of flushed events are gone: spend then equals that in Postgres. */
const settled = () => expect.poll(() => ingest.redis.hlen('budget:{all}:notes')).toBe(0);

describe('reserving', () => {
  test('allows up to the limit, and says which budget refuses', async () => {
    const { id } = await create('10');
    const first = await reserve('a', '6');
    expect(first).toMatchObject({
      ...{ allowed: true, reservationId: `${merchantId}/a`, refusedBy: [], degraded: false },
      remaining: [{ budgetId: id, remaining: '4' }],
    });
    expect(await reserve('b', '4.000000001')).toMatchObject({
      ...{ allowed: false, reservationId: null, refusedBy: [id], expiresAt: null },
      remaining: [{ budgetId: id, remaining: '4' }],
    });
    expect(await reserve('c', '4')).toMatchObject({ allowed: true });
    expect(await reserve('d', '0')).toMatchObject({ allowed: false });
    expect(await spentOf(id)).toEqual({ spent: '0', reserved: '10', complete: true });
  });

  test('answers the same for the same id, and rejects another request with it', async () => {
    const { id } = await create('10');
    const first = await reserve('a', '6');
    expect(await reserve('a', '6')).toEqual(first);
    await expect(reserve('a', '5')).rejects.toMatchObject({ data: { code: 'CONFLICT' } });
    await settle('a');
    expect(await reserve('a', '6')).toMatchObject({ allowed: true, expiresAt: first.expiresAt });
    expect(await spentOf(id)).toEqual({ spent: '0', reserved: '0', complete: true });
  });

  test('takes from all matching budgets, or from none', async () => {
    const all = await create('10');
    const user = await create('3', { scope: { merchantId, userId: 'ada' }, measure: 'requests' });
    const soft = await create('1', { enforcement: 'soft' });
    const other = await create('1', { scope: { merchantId, model: 'gpt-4o' } });
    const ada = { userId: 'ada' };
    expect(await reserve('a', '2', { ...ada, amounts: { cost: '2', requests: '3' } })).toMatchObject({ allowed: true });
    expect(await reserve('b', '2', ada)).toMatchObject({ allowed: false, refusedBy: [user.id] });
    expect(await reserve('c', '2', { userId: 'bob' })).toMatchObject({ allowed: true });
    const reserved = await Promise.all([all, user, soft, other].map(async ({ id }) => (await status(id)).reserved));
    expect(reserved).toEqual(['4', '3', '4', '0']);
  });

  test.each([{ requests: '1.5' }, { requests: '-1' }, { tokens: '0.1' }, { cost: '-1' }, { cost: '99999999999' }])(
    'refuses %j, whatever budgets there are',
    async (amounts) => {
      await create('10');
      const [[name]] = Object.entries(amounts) as [[string, string]];
      const refused = {
        data: { code: 'INVALID_INPUT' },
        message: expect.stringContaining(`amounts.${name}: Expected`),
      };
      await expect(reserve('a', '1', { amounts })).rejects.toMatchObject(refused);
      await expect(ingest.admin.budgets.check.query({ merchantId: 'without-budgets', amounts })).rejects.toMatchObject(
        refused,
      );
    },
  );

  test('is decided beforehand by a check, which reserves nothing', async () => {
    const { id } = await create('10');
    const check = (cost?: string) =>
      ingest.admin.budgets.check.query({ merchantId, ...(cost && { amounts: { cost } }) });
    expect(await check('10')).toEqual({
      ...{ allowed: true, refusedBy: [], degraded: false },
      remaining: [{ budgetId: id, remaining: '10' }],
    });
    expect(await check('10.1')).toMatchObject({ allowed: false, refusedBy: [id] });
    await reserve('a', '10');
    expect(await check()).toMatchObject({ allowed: false, refusedBy: [id], remaining: [{ remaining: '0' }] });
    expect(await spentOf(id)).toMatchObject({ spent: '0', reserved: '10' });
    await settle('a', entry('a', '9'));
    expect(await check()).toMatchObject({ allowed: true, remaining: [{ remaining: '1' }] });
  });

  test('allows whatever no budget is for', async () => {
    expect(await reserve('a', '1000')).toMatchObject({ allowed: true, remaining: [] });
    expect(await settle('a', entry('a', '3'))).toEqual({ settled: false, accepted: 1, duplicates: 0 });
  });

  test('never allows more than the limit to many at once', async () => {
    const { id } = await create('50', { measure: 'requests' });
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, n) =>
        ingest.admin.budgets.reserve.mutate({ id: `r${n}`, merchantId, amounts: {} }),
      ),
    );
    expect(answers.filter(({ allowed }) => allowed)).toHaveLength(50);
    expect(await status(id)).toMatchObject({ reserved: '50', remaining: '0' });
  });

  test('ends by itself, by the clock of Redis', async () => {
    const { id } = await create('10');
    await reserve('a', '10', { ttlSeconds: 1 });
    await expect.poll(async () => (await reserve('b', '10')).allowed).toBe(true);
    expect(await settle('a', entry('a', '3'))).toMatchObject({ settled: false, accepted: 1 });
    expect(await spentOf(id)).toMatchObject({ spent: '3', reserved: '10' });
  });
});

describe('settling', () => {
  test('turns a reservation into spend, once, also when it is sent again', async () => {
    const { id } = await create('10');
    await reserve('a', '6');
    expect(await settle('a', entry('a', '2.5'))).toEqual({ settled: true, accepted: 1, duplicates: 0 });
    expect(await settle('a', entry('a', '2.5'))).toEqual({ settled: false, accepted: 0, duplicates: 1 });
    expect(await spentOf(id)).toEqual({ spent: '2.5', reserved: '0', complete: true });
    await flush();
    await settled();
    expect(await spentOf(id)).toEqual({ spent: '2.5', reserved: '0', complete: true });
    expect(await reserve('b', '7.5')).toMatchObject({ allowed: true });
  });

  test('counts an event once, also when it is settled again after it was flushed', async () => {
    const { id } = await create('10');
    await reserve('a', '6');
    await settle('a', entry('a', '2.5'));
    await settle('unreserved', entry('b', '1'));
    expect(await spentOf(id)).toMatchObject({ spent: '3.5' });
    await flush();
    await settled();
    await settle('a', entry('a', '2.5'));
    await settle('unreserved', entry('b', '1'));
    expect(await ingest.redis.hlen('budget:{all}:notes')).toBe(0);
    await settle('a', entry('c', '4'));
    expect(await spentOf(id)).toMatchObject({ spent: '7.5', reserved: '0' });
  });

  test('counts nothing of an event that a store rejects', async () => {
    const { id } = await create('10');
    const typesOf = (name: string, count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, n) => [`${name}_${n}`, '1']));
    // As many metric types as a day may have, with the measures.
    const lines = Array.from({ length: 7 }, (_, n) => entry(`types-${n}`, '0', { metrics: typesOf(`t${n}`, 30) }));
    await record(...lines);
    await reserve('r', '2');
    const rejected = entry('e', '0.6', { metrics: { cost: '0.6', ...typesOf('more', 30) } });
    await expect(settle('r', rejected)).rejects.toMatchObject({ data: { code: 'CARDINALITY_LIMIT' } });
    expect(await spentOf(id)).toEqual({ spent: '0', reserved: '0', complete: true });
    // Corrected, it counts.
    expect(await settle('r', entry('e', '0.5'))).toMatchObject({ accepted: 1 });
    await flush();
    await settled();
    expect(await spentOf(id)).toEqual({ spent: '0.5', reserved: '0', complete: true });
  });

  test('keeps the reservation where the event is rejected', async () => {
    const { id } = await create('10');
    await reserve('a', '6');
    await expect(settle('a', entry('a', '-1'))).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
    await expect(settle('a', { ...entry('a', '1'), merchantId: 'another' })).rejects.toMatchObject({
      data: { code: 'MERCHANT_FORBIDDEN' },
    });
    expect(await spentOf(id)).toMatchObject({ spent: '0', reserved: '6' });
    expect(await ingest.admin.budgets.release.mutate({ reservationId: `${merchantId}/a` })).toEqual({ released: true });
    expect(await spentOf(id)).toMatchObject({ reserved: '0' });
  });
});

describe('many in one call', () => {
  const reserveMany = (...requests: { id: string; cost: string; merchantId?: string }[]) =>
    ingest.admin.budgets.reserveMany.mutate({
      requests: requests.map(({ id, cost, ...more }) => ({ id, merchantId, amounts: { cost }, ...more })),
    });

  test('are decided in order, each by itself', async () => {
    const { id } = await create('10');
    const { items } = await reserveMany(
      { id: 'a', cost: '6' },
      { id: 'b', cost: '5' },
      { id: 'a', cost: '7' },
      { id: 'c', cost: '99999999999' },
      { id: 'd', cost: '4' },
    );
    expect(items.map(({ result, error }) => error?.code ?? result?.allowed)).toEqual([
      ...[true, false, 'CONFLICT', 'INVALID_INPUT', true],
    ]);
    expect(items[1]!.result).toMatchObject({ refusedBy: [id], remaining: [{ budgetId: id, remaining: '4' }] });
    expect(await spentOf(id)).toEqual({ spent: '0', reserved: '10', complete: true });
  });

  test('are settled each by itself: a rejected event keeps its reservation, a repeated one counts once', async () => {
    const { id } = await create('100');
    await reserveMany(...['a', 'b', 'c', 'd', 'e'].map((name) => ({ id: name, cost: '1' })));
    const settlement = (name: string, used?: UsageEntry) => ({
      reservationId: `${merchantId}/${name}`,
      ...(used && { entry: used }),
    });
    const settlements = [
      settlement('a', entry('a', '2')),
      settlement('b', entry('a', '2')),
      settlement('c', entry('c', '-1')),
      settlement('d'),
      settlement('e', { ...entry('e', '1'), merchantId: 'another' }),
      settlement('never', entry('n', '3')),
    ];
    const { items } = await ingest.admin.budgets.settleMany.mutate({ settlements });
    expect(items).toEqual([
      { result: { settled: true, accepted: 1, duplicates: 0 }, error: null },
      { result: { settled: true, accepted: 0, duplicates: 1 }, error: null },
      { result: null, error: { code: 'INVALID_ENTRY', message: expect.any(String) } },
      { result: { settled: true, accepted: 0, duplicates: 0 }, error: null },
      { result: null, error: { code: 'MERCHANT_FORBIDDEN', message: expect.any(String) } },
      { result: { settled: false, accepted: 1, duplicates: 0 }, error: null },
    ]);
    expect(await spentOf(id)).toEqual({ spent: '5', reserved: '2', complete: true });
    await ingest.admin.budgets.settleMany.mutate({ settlements });
    await flush();
    await settled();
    expect(await spentOf(id)).toEqual({ spent: '5', reserved: '2', complete: true });
  });

  test('say of each item that is of another merchant that it is forbidden', async () => {
    const { key } = await ingest.admin.keys.create.mutate({ name: 'bound', role: 'producer', merchantId });
    const bound = ingest.clientWith(key);
    const requests = [merchantId, 'another'].map((own) => ({ id: 'a', merchantId: own, amounts: {} }));
    const { items } = await bound.budgets.reserveMany.mutate({ requests });
    expect(items.map(({ result, error }) => error?.code ?? result?.allowed)).toEqual([true, 'MERCHANT_FORBIDDEN']);
    const settlements = [{ reservationId: `${merchantId}/a` }, { reservationId: 'another/a' }];
    const ended = await bound.budgets.settleMany.mutate({ settlements });
    expect(ended.items.map(({ error }) => error?.code)).toEqual([undefined, 'MERCHANT_FORBIDDEN']);
  });
});

describe('what is spent', () => {
  test('has recorded events at once, repeats and flushed events once, and what is taken back no longer', async () => {
    const { id } = await create('10');
    await record(entry('a', '3'), entry('b', '4'), entry('old', '9', { time: '2026-10-31T23:00:00Z' }));
    await expect.poll(async () => (await status(id)).spent).toBe('7');
    await record(entry('a', '3'));
    await flush();
    await settled();
    expect(await spentOf(id)).toEqual({ spent: '7', reserved: '0', complete: true });
    await ingest.admin.usage.void.mutate({ merchantId, id: 'b', reason: 'never happened' });
    const adjustment = { id: 'x', merchantId, date: '2026-11-20', metrics: { cost: '-1' }, reason: 'credit' };
    await ingest.admin.usage.adjust.mutate(adjustment);
    await ingest.admin.usage.adjust.mutate(adjustment);
    await expect.poll(async () => (await status(id)).spent).toBe('2');
  });

  test('is rebuilt after Redis was started again with old sums: reservations go, spend stays', async () => {
    const { id } = await create('10');
    await record(entry('a', '3'));
    await flush();
    await settled();
    await record(entry('b', '2'));
    await reserve('r', '1');
    // Simulates an older snapshot: sums of another run of Redis.
    const fields = await ingest.redis.hkeys('budget:{all}:sums');
    for (const field of fields)
      if (/:(used|spent)$/.test(field)) await ingest.redis.hset('budget:{all}:sums', field, '9999');
    await ingest.redis.hset('budget:{all}:sums', 'run', 'another');
    await ingest.redis.del('budget:{all}:notes');
    expect(await reserve('s', '5.000000001')).toMatchObject({ allowed: false, degraded: false });
    expect(await reserve('s', '5')).toMatchObject({ allowed: true, degraded: false });
    expect(await spentOf(id)).toEqual({ spent: '5', reserved: '5', complete: true });
    expect(await settle('r', entry('r', '1'))).toMatchObject({ settled: false, accepted: 1 });
    expect(await spentOf(id)).toEqual({ spent: '6', reserved: '5', complete: true });
  });

  test.each<[string, Partial<Create>]>([
    ['of a merchant', {}],
    ['of a user in any merchant', { scope: { userId: 'eve' } }],
  ])('%s has what was accepted just before the budget was made', async (_, more) => {
    await record(entry('a', '0.7', { userId: 'eve' }));
    const { id } = await create('10', more);
    expect(await spentOf(id)).toEqual({ spent: '0.7', reserved: '0', complete: true });
    await ingest.admin.budgets.remove.mutate({ id });
    await ingest.admin.usage.void.mutate({ merchantId, id: 'a', reason: 'a test' });
  });

  test('counts from the start of the period in the zone of the budget, the same before and after the events', async () => {
    const times = fc.integer({ min: Date.parse('2026-10-20T00:00:00Z'), max: Date.parse('2026-11-22T12:00:00Z') });
    const zones = fc.constantFrom('UTC', 'America/Los_Angeles', 'Asia/Kathmandu', 'Europe/Berlin', 'America/Santiago');
    const periods = fc.constantFrom(
      'hour' as const,
      'day' as const,
      'week' as const,
      'month' as const,
      'total' as const,
    );
    let round = 0;
    const now = ingest.clock.now;
    await fc.assert(
      fc.asyncProperty(
        fc.array(times, { minLength: 1, maxLength: 12 }),
        times,
        zones,
        periods,
        async (events, at, timeZone, period) => {
          merchantId = `zone-${round++}`;
          ingest.clock.now = at;
          const budget = { timeZone, period };
          const before = await create('1000', budget);
          ingest.clock.now = now;
          await record(
            ...events.map((time, n) =>
              entry(`e${n}`, formatCost(1n + BigInt(n)), { time: new Date(time).toISOString() }),
            ),
          );
          const adjusted = {
            id: 'x',
            merchantId,
            date: new Date(events[0]!).toISOString().slice(0, 10),
            reason: 'test',
          };
          await ingest.admin.usage.adjust.mutate({ ...adjusted, metrics: { cost: '0.001' } });
          await flush();
          await ingest.admin.usage.void.mutate({ merchantId, id: 'e0', reason: 'test' });
          ingest.clock.now = at;
          const after = await create('1000', budget);
          const stored = await Promise.all(
            [before, after].map(async ({ id }) => {
              const { periodStart, spent } = await status(id);
              return { periodStart, spent };
            }),
          );
          ingest.clock.now = now;
          for (const { id } of [before, after]) await ingest.admin.budgets.remove.mutate({ id });
          expect(stored[1]).toEqual(stored[0]);
        },
      ),
      { numRuns: runsOf({ short: 4, long: 12 }) },
    );
    ingest.clock.now = now;
  });
});

describe('a period', () => {
  test.each([
    ['Atlantic/Azores', 'day', '2026-10-25T00:30:00Z', '2026-10-25T00:00:00Z', '2026-10-26T01:00:00Z'],
    ['Atlantic/Azores', 'day', '2026-10-24T12:00:00Z', '2026-10-24T00:00:00Z', '2026-10-25T00:00:00Z'],
    ['America/Havana', 'month', '2026-11-01T04:30:00Z', '2026-11-01T04:00:00Z', '2026-12-01T05:00:00Z'],
    ['America/Santiago', 'day', '2026-09-06T04:00:00Z', '2026-09-06T04:00:00Z', '2026-09-07T03:00:00Z'],
    ['Europe/Berlin', 'hour', '2026-10-25T01:30:00Z', '2026-10-25T01:00:00Z', '2026-10-25T02:00:00Z'],
    ['Australia/Lord_Howe', 'hour', '2026-10-03T15:20:00Z', '2026-10-03T14:30:00Z', '2026-10-03T15:30:00Z'],
    ['Australia/Lord_Howe', 'hour', '2026-10-03T15:40:00Z', '2026-10-03T15:30:00Z', '2026-10-03T16:00:00Z'],
    ['Australia/Lord_Howe', 'hour', '2027-04-03T15:10:00Z', '2027-04-03T15:00:00Z', '2027-04-03T15:30:00Z'],
  ] as const)('in %s, the %s of %s, has its edges where clocks change', async (timeZone, period, at, start, end) => {
    const now = ingest.clock.now;
    ingest.clock.now = Date.parse(at);
    const { id } = await create('10', { timeZone, period });
    const { periodStart, periodEnd } = await status(id);
    await ingest.admin.budgets.remove.mutate({ id });
    ingest.clock.now = now;
    expect([periodStart, periodEnd].map((time) => Date.parse(time!))).toEqual(
      [start, end].map((time) => Date.parse(time)),
    );
  });

  test('that begins where clocks go back over midnight has the usage of both hours', async () => {
    const now = ingest.clock.now;
    const times = ['2026-10-24T23:59:59Z', '2026-10-25T00:00:00Z', '2026-10-25T00:59:59Z', '2026-10-25T01:00:00Z'];
    ingest.clock.now = Date.parse('2026-10-25T00:30:00Z');
    const budget = { timeZone: 'Atlantic/Azores', period: 'day' as const };
    const before = await create('1000', budget);
    ingest.clock.now = now;
    await record(...times.map((time, n) => entry(`e${n}`, `${10 ** n}`, { time })));
    await flush();
    ingest.clock.now = Date.parse('2026-10-25T00:30:00Z');
    const after = await create('1000', budget);
    expect([(await status(before.id)).spent, (await status(after.id)).spent]).toEqual(['1110', '1110']);
    for (const { id } of [before, after]) await ingest.admin.budgets.remove.mutate({ id });
    ingest.clock.now = now;
  });
});

describe('a budget on a meter', () => {
  const gpu = { aggregation: 'SUM' as const, metricType: 'gpu_hours', scale: 2 };
  const events: Omit<UsageEntry, 'merchantId'>[] = [
    { id: 'a', provider: 'aws', metrics: { gpu_hours: '0.25', cost: '1' }, properties: { region: 'eu' } },
    { id: 'b', provider: 'aws', metrics: { gpu_hours: '1.5' }, count: 3 },
    { id: 'c', provider: 'aws', metrics: { gpu_hours: '7' }, status: 'failure' as const },
    { id: 'd', metrics: { prompt_tokens: '5', completion_tokens: '2' }, properties: { region: 'us', constructor: 1 } },
    { id: 'e', metrics: {}, properties: { event_type: 'upload', mb: '2.50', region: 'eu' } },
    { id: 'f', metrics: {}, properties: { event_type: 'upload', mb: -0.5 } },
    { id: 'g', metrics: {}, properties: { event_type: 'download', mb: 9 } },
  ];

  test.each([
    ['sums of success', { ...gpu, filters: { provider: ['aws'], status: ['success'] } }, '1.75'],
    ['sums', { ...gpu, dimensions: ['user'] }, '8.75'],
    ['calls by property', { aggregation: 'COUNT' as const, filters: { 'property:region': ['eu', 'unknown'] } }, '8'],
    ['properties', { aggregation: 'SUM' as const, valueProperty: 'property:mb', scale: 2, eventType: 'upload' }, '2'],
  ])(
    'of %s counts what the meter counts, at once and the same once it is flushed or taken back',
    async (_, of, spent) => {
      const key = `meter-${merchants}`;
      await ingest.admin.meters.create.mutate({ key, merchantId, ...of });
      const before = await create('100', { measure: undefined, meter: key });
      expect(before).toMatchObject({ measure: null, meter: key, limit: '100', name: `${key} by month` });
      await record(...events.map((each) => ({ merchantId, time: '2026-11-22T10:00:00Z', ...each })));
      await expect.poll(async () => (await status(before.id)).spent).toBe(spent);
      await flush();
      await settled();
      const after = await create('100', { measure: undefined, meter: key });
      expect([await spentOf(before.id), await spentOf(after.id)]).toEqual([
        { spent, reserved: '0', complete: true },
        { spent, reserved: '0', complete: true },
      ]);
      for (const { id } of events) await ingest.admin.usage.void.mutate({ merchantId, id, reason: 'never happened' });
      await expect.poll(async () => (await status(before.id)).spent).toBe('0');
      expect((await status((await create('100', { measure: undefined, meter: key })).id)).spent).toBe('0');
    },
  );

  test('takes part in reservations that name the meter, in its decimals', async () => {
    const key = `meter-${merchants}`;
    await ingest.admin.meters.create.mutate({ key, merchantId, ...gpu });
    const { id } = await create('1.5', { measure: undefined, meter: key });
    const wish = (name: string, amount: string) => reserve(name, '1', { amounts: { meters: { [key]: amount } } });
    expect(await wish('a', '1.25')).toMatchObject({ allowed: true, remaining: [{ budgetId: id, remaining: '0.25' }] });
    expect(await wish('b', '0.26')).toMatchObject({ allowed: false, refusedBy: [id] });
    expect(await reserve('c', '1')).toMatchObject({ allowed: true, remaining: [] });
    const used = { ...entry('a', '0'), metrics: { gpu_hours: '1.5' } };
    expect(await settle('a', used)).toMatchObject({ settled: true, accepted: 1 });
    expect(await wish('b', '0.01')).toMatchObject({ allowed: false });
    await expect(wish('d', '0.001')).rejects.toMatchObject({
      data: { code: 'INVALID_INPUT' },
      message: expect.stringContaining(`amounts.meters.${key}`),
    });
  });

  test('may be a built-in meter, and stays as it is when its meter is removed', async () => {
    const tokens = await create('10', { measure: undefined, meter: 'prompt_tokens' });
    const key = `meter-${merchants}`;
    await ingest.admin.meters.create.mutate({ key, merchantId, ...gpu });
    const hours = await create('10', { measure: undefined, meter: key });
    await ingest.admin.meters.remove.mutate({ key, merchantId });
    await record({ ...entry('a', '0'), metrics: { gpu_hours: '0.5', prompt_tokens: '7', completion_tokens: '9' } });
    await flush();
    await settled();
    expect([(await status(tokens.id)).spent, (await status(hours.id)).spent]).toEqual(['7', '0.5']);
  });

  test.each<[string, Partial<Create>, string]>([
    ['which is unknown', { meter: 'nobody' }, 'NOT_FOUND'],
    ['of what Tally priced', { meter: 'priced_cost' }, 'INVALID_INPUT'],
    ['whose values cannot be added', { meter: 'greatest' }, 'INVALID_INPUT'],
    ['beside a measure', { meter: 'cost', measure: 'cost' as const }, 'INVALID_INPUT'],
    ['or of nothing', {}, 'INVALID_INPUT'],
  ])('%s is refused', async (_, of, code) => {
    if (of.meter === 'greatest')
      await ingest.admin.meters.create.mutate({ key: 'greatest', merchantId, aggregation: 'MAX', metricType: 'size' });
    await expect(create('1', { measure: undefined, ...of })).rejects.toMatchObject({ data: { code } });
  });
});

test('a budget of a team counts by the directory: the team of the key, else of the user; own entries first', async () => {
  const entries: [kind: 'user' | 'apiKey', id: string, own: boolean, team: string | null][] = [
    ['user', 'ada', false, 'red'],
    ['user', 'bob', false, 'red'],
    ['user', 'bob', true, 'blue'],
    ['apiKey', 'k-blue', false, 'blue'],
    ['apiKey', 'k-red', true, 'red'],
    ['apiKey', 'k-none', true, null],
    ['apiKey', 'unknown', false, 'red'],
  ];
  const learn = (of: typeof entries) =>
    ingest.db.directory.upsert(
      of.map(([kind, id, own, team]) => ({
        ...{ kind, id, team, name: id, email: null, role: null, merchantId: own ? merchantId : null },
      })),
    );
  await learn(entries);
  const red = await create('100', { scope: { merchantId, team: 'red' }, measure: 'requests' });
  expect(red.scope.team).toBe('red');
  const of = (id: string, more: object) => ({ ...entry(id, '1'), ...more });
  await record(
    of('a', { userId: 'ada' }),
    of('b', { userId: 'bob' }),
    of('c', { userId: 'ada', apiKey: 'k-blue' }),
    of('d', { userId: 'bob', apiKey: 'k-red' }),
    of('e', { userId: 'ada', apiKey: 'k-none' }),
    of('f', {}),
  );
  await expect.poll(async () => (await status(red.id)).spent).toBe('3');
  await flush();
  await settled();
  expect((await status(red.id)).spent).toBe('3');
  const again = await create('4', { scope: { merchantId, team: 'red' }, measure: 'requests' });
  expect((await status(again.id)).spent).toBe('3');
  expect(await reserve('r', '1', { userId: 'ada' })).toMatchObject({ allowed: true });
  expect(await reserve('s', '1', { userId: 'bob', apiKey: 'k-red' })).toMatchObject({ refusedBy: [again.id] });
  expect(await reserve('s', '1', { userId: 'bob' })).toMatchObject({ allowed: true, remaining: [] });
  // Usage without a key may say so by `unknown`.
  expect(await reserve('u', '1', { userId: 'bob', apiKey: 'unknown' })).toMatchObject({ allowed: true, remaining: [] });
  await expect(create('1', { scope: { merchantId, team: 'unknown' } })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
  // Who joins a team counts for it from then on.
  await learn([['user', 'bob', true, 'red']]);
  await expect
    .poll(async () => (await reserve('t', '1', { userId: 'bob', ttlSeconds: 1 })).allowed, { timeout: 30_000 })
    .toBe(false);
  await ingest.admin.usage.void.mutate({ merchantId, id: 'a', reason: 'never happened' });
  await expect.poll(async () => (await status(red.id)).spent).toBe('2');
  // Only changes of who is in a team make processes load the budgets again.
  const version = () => ingest.db.budgets.version();
  const before = await version();
  const named = { kind: 'user' as const, id: 'ada', email: null, role: null, merchantId: null };
  await ingest.db.directory.upsert([{ ...named, name: 'Ada Lovelace' }]);
  await ingest.db.directory.upsert([{ ...named, id: 'eve', name: 'Eve' }]);
  await ingest.db.directory.remove({ kind: 'user', ids: ['eve'], merchantId: null });
  expect(await version()).toBe(before);
  await ingest.db.directory.upsert([{ ...named, id: 'eve', name: 'Eve', team: 'red' }]);
  const joined = await version();
  expect(joined).not.toBe(before);
  await ingest.db.directory.upsert([{ ...named, id: 'eve', name: 'Eve', team: null }]);
  const left = await version();
  expect(left).not.toBe(joined);
  await ingest.db.directory.remove({ kind: 'user', ids: ['ada'], merchantId: null });
  expect(await version()).not.toBe(left);
  for (const { id } of [red, again]) await ingest.admin.budgets.remove.mutate({ id });
});

describe('budgets', () => {
  test('are changed, listed and removed', async () => {
    const budget = await create('10', { name: 'November', thresholds: [80, 100] });
    expect(await ingest.admin.budgets.get.query({ id: budget.id })).toEqual(budget);
    const changed = await ingest.admin.budgets.update.mutate({ id: budget.id, limit: '20', enforcement: 'soft' });
    expect(changed).toEqual({ ...budget, limit: '20', enforcement: 'soft' });
    expect((await ingest.admin.budgets.list.query({ merchantId })).rows).toEqual([changed]);
    expect(await reserve('a', '100')).toMatchObject({ allowed: true });
    const removed = await ingest.admin.budgets.remove.mutate({ id: budget.id });
    expect(await ingest.admin.budgets.remove.mutate({ id: budget.id })).toEqual(removed);
    expect((await ingest.admin.budgets.list.query({ merchantId })).rows).toEqual([]);
    await expect(ingest.admin.budgets.update.mutate({ id: budget.id, limit: '1' })).rejects.toMatchObject({
      data: { code: 'NOT_FOUND' },
    });
  });

  test('are found by a part of the name or of an id in their scope, in any case', async () => {
    const named = await create('10', { name: 'Winter 100%_sale' });
    const scoped = await create('10', { name: 'other', scope: { merchantId, userId: 'Grace Hopper' } });
    const found = async (search: string) =>
      (await ingest.admin.budgets.list.query({ merchantId, search })).rows.map(({ id }) => id);
    expect(await found('winter')).toEqual([named.id]);
    expect(await found('100%_')).toEqual([named.id]);
    expect(await found('grace h')).toEqual([scoped.id]);
    expect(await found('%')).toEqual([named.id]);
    expect(await found('nobody')).toEqual([]);
    for (const { id } of [named, scoped]) await ingest.admin.budgets.remove.mutate({ id });
  });

  test('have a status each, or those that are asked for by their ids', async () => {
    const [first, second, removed] = await Promise.all([create('10'), create('20'), create('30')]);
    await ingest.admin.budgets.remove.mutate({ id: removed.id });
    const other = await create('40', { scope: { merchantId: `${merchantId}-other` } });
    const { key } = await ingest.admin.keys.create.mutate({ name: 'bound', role: 'viewer', merchantId });
    const statusOf = async (client: IngestClient, asked: { id?: string; ids?: string[]; merchantId?: string }) =>
      (await client.budgets.status.query(asked)).rows.map(({ budgetId }) => budgetId).sort();
    const ids = [first, removed, other].map(({ id }) => id);
    expect(await statusOf(ingest.admin, { ids })).toEqual([first.id, other.id].sort());
    expect(await statusOf(ingest.admin, { ids: ids.map((id) => id.toUpperCase()), merchantId })).toEqual([first.id]);
    expect(await statusOf(ingest.clientWith(key), { ids })).toEqual([first.id]);
    expect(await statusOf(ingest.admin, { id: second.id.toUpperCase() })).toEqual([second.id]);
    expect(await statusOf(ingest.admin, { id: second.id, ids })).toEqual([]);
    expect(await statusOf(ingest.admin, { merchantId })).toEqual([first.id, second.id].sort());
    await expect(ingest.admin.budgets.status.query({ ids: [] })).rejects.toMatchObject({
      data: { code: 'INVALID_INPUT' },
    });
  });

  test('of another merchant do not exist for a bound key', async () => {
    const budget = await create('10');
    const { key } = await ingest.admin.keys.create.mutate({ name: 'bound', role: 'admin', merchantId: 'someone-else' });
    const bound = ingest.clientWith(key);
    await expect(bound.budgets.get.query({ id: budget.id })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
    await expect(bound.budgets.remove.mutate({ id: budget.id })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
    expect((await bound.budgets.list.query()).rows).toEqual([]);
    await expect(bound.budgets.release.mutate({ reservationId: `${merchantId}/a` })).rejects.toMatchObject({
      data: { code: 'MERCHANT_FORBIDDEN' },
    });
  });

  test.each([
    [{ limit: '1.5', measure: 'tokens' as const }, 'limit'],
    [{ timeZone: 'Mars/Base' }, 'timeZone'],
  ])('refuse %o', async (more, field) => {
    await expect(create('1', more)).rejects.toMatchObject({
      data: { code: 'INVALID_INPUT' },
      message: expect.stringContaining(field),
    });
  });
});

test('of a moment before Postgres fails are in force in every process', async () => {
  let isGone = false;
  const unlessGone = <T>(read: () => Promise<T>): Promise<T> =>
    isGone ? Promise.reject(new Error('no connection')) : read();
  const other = createBudgetRegistry({
    store: {
      version: () => unlessGone(ingest.db.budgets.version),
      active: () => unlessGone(ingest.db.budgets.active),
      members: () => unlessGone(ingest.db.budgets.members),
      periods: (at) => unlessGone(() => ingest.db.budgets.periods(at)),
    },
    redis: ingest.redis,
    now: () => ingest.clock.now,
  });
  await other.refresh();
  isGone = true;
  const { id } = await create('10');
  await other.refresh();
  expect(
    other
      .current()!
      .matching({ merchantId })
      .map((budget) => budget.id),
  ).toEqual([id]);
  expect(other.current()!.spanOf(id, ingest.clock.now)).toEqual({
    start: Date.parse('2026-11-01T00:00:00Z'),
    ends: Date.parse('2026-12-01T00:00:00Z'),
  });
});

test('are in force in every process once they are answered, and count what it settles', async () => {
  const other = await startIngest({}, undefined, ingest);
  const reserveThere = (id: string) =>
    other.admin.budgets.reserve.mutate({ id, merchantId, amounts: { cost: '6' }, ttlSeconds: 60 });
  expect(await reserveThere('before')).toMatchObject({ allowed: true, remaining: [] });
  const { id } = await create('10');
  const { reservationId } = await reserveThere('a');
  await other.admin.budgets.settle.mutate({ reservationId: reservationId!, entry: entry('a', '6') });
  expect(await spentOf(id)).toEqual({ spent: '6', reserved: '0', complete: true });
  expect(await reserveThere('b')).toMatchObject({ allowed: false, refusedBy: [id] });
  await ingest.admin.budgets.update.mutate({ id, limit: '12' });
  expect(await reserveThere('b')).toMatchObject({ allowed: true });
  await other.close();
});
