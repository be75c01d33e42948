import { addDays, dayOf, type UsageEntry } from '@tally/contracts';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from '../test/start.ts';

let running: Running;
const today = dayOf(Date.now());
const DAYS = 5;
const first = addDays(today, -DAYS);

type Call = { at: number; region: string | undefined; userId: string; images: number };

/** Calls of some days, on any millisecond. */
const calls: Call[] = fc.sample(
  fc.record({
    at: fc.integer({ min: 0, max: DAYS * 86_400_000 - 1 }).map((offset) => Date.parse(`${first}T00:00:00Z`) + offset),
    region: fc.constantFrom('eu', 'us', undefined),
    userId: fc.constantFrom('ada', 'bob'),
    images: fc.integer({ min: 1, max: 9 }),
  }),
  { numRuns: 400, seed: 7 },
);

const query = (question: Partial<Parameters<Running['client']['analytics']['meter']['query']>[0]>) =>
  running.client.analytics.meter.query({ meter: 'images_made', merchantIds: ['acme'], ...question });
const refusal = (code: string) => ({ data: { code } });

beforeAll(async () => {
  running = await startAnalytics();
  await running.ingest.meters.create.mutate({
    key: 'images_made',
    aggregation: 'SUM',
    metricType: 'images',
    dimensions: ['user', 'property:region'],
  });
  const entries = calls.map(
    ({ at, region, userId, images }, index): UsageEntry => ({
      id: `c${index}`,
      merchantId: 'acme',
      time: new Date(at).toISOString(),
      userId,
      metrics: { images: String(images) },
      ...(region && { properties: { region } }),
    }),
  );
  // Half of them is derived and folded, the rest is not derived yet.
  await running.ingest.usage.record.mutate({ entries: entries.slice(0, 200) });
  await running.ingest.flush.drain.mutate({});
  while ((await running.db.meters.derive(1_000)).flushes > 0);
  await running.db.meters.fold(addDays(today, 1), 0, 1_000);
  await running.ingest.usage.record.mutate({ entries: entries.slice(200) });
});
afterAll(() => running.stop());

/** Where the window of a moment begins on a wall clock in a zone. */
function windowOf(ms: number, window: 'hour' | 'day', timeZone: string): string {
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone, dateStyle: 'short', timeStyle: 'medium' });
  return format.format(ms).slice(0, window === 'hour' ? 13 : 10);
}

describe('windows', () => {
  test.each([
    ['hour', 'UTC'],
    ['day', 'UTC'],
    ['hour', 'Asia/Kolkata'],
    ['day', 'Asia/Kolkata'],
    ['hour', 'Asia/Kathmandu'],
    ['day', 'Asia/Kathmandu'],
    ['day', 'Australia/Adelaide'],
    ['day', 'America/New_York'],
  ] as const)('by %s in %s equal a plain sum', async (window, timeZone) => {
    const range = { startDate: addDays(first, -1), endDate: addDays(today, 1) };
    const { rows } = await query({ ...range, window, timeZone, groupBy: ['property:region'] });
    const model = new Map<string, number>();
    for (const { at, region = 'unknown', images } of calls) {
      const key = `${windowOf(at, window, timeZone)} ${region}`;
      model.set(key, (model.get(key) ?? 0) + images);
    }
    const answered = rows.map(({ start, group, value }) => [
      `${windowOf(Date.parse(start), window, timeZone)} ${group['property:region']}`,
      Number(value),
    ]);
    expect(Object.fromEntries(answered)).toEqual(Object.fromEntries(model));
    expect(answered).toHaveLength(model.size);
  });

  test('of the whole range equal a plain sum, with filters and without', async () => {
    const range = { startDate: first, endDate: today };
    const sum = (some: readonly Call[]) => String(some.reduce((total, { images }) => total + images, 0));
    expect((await query(range)).rows.map(({ value }) => value)).toEqual([sum(calls)]);
    const named = await query({ ...range, filters: { user: ['ada'], 'property:region': ['eu', 'unknown'] } });
    const chosen = calls.filter(({ userId, region }) => userId === 'ada' && region !== 'us');
    expect(named.rows.map(({ value }) => value)).toEqual([sum(chosen)]);
    const asText = new URLSearchParams({ meter: 'images_made', ...range });
    for (const filter of ['user=ada', 'property:region=eu', 'property:region=unknown']) asText.append('filter', filter);
    const rest = await running.app.request(`/api/v1/usage/meter?${asText}`, {
      headers: { authorization: `Bearer ${KEY}` },
    });
    expect(((await rest.json()) as typeof named).rows).toEqual(named.rows);
    const moments = { from: `${first}T00:00:00Z`, to: `${addDays(first, 1)}T00:15:00Z` };
    const until = Date.parse(moments.to);
    expect((await query(moments)).rows.map(({ value }) => value)).toEqual([sum(calls.filter(({ at }) => at < until))]);
  });

  test.each([
    ['hour', 'UTC', ['user']],
    ['day', 'UTC', ['user', 'merchant']],
    ['day', 'Asia/Kathmandu', []],
    ['hour', 'Asia/Kolkata', ['model']],
    ['day', 'Asia/Kathmandu', ['user', 'model', 'apiKey']],
  ] as const)(
    'of the built-in meter `requests` by %s in %s equal a plain count by %j',
    async (window, timeZone, by) => {
      const range = { startDate: addDays(first, -1), endDate: addDays(today, 1) };
      const { rows, coverage } = await query({ ...range, meter: 'requests', window, timeZone, groupBy: [...by] });
      const names: Record<string, (call: Call) => string> = { user: ({ userId }) => userId, merchant: () => 'acme' };
      const model = new Map<string, number>();
      for (const call of calls) {
        const key = [windowOf(call.at, window, timeZone), ...by.map((name) => names[name]?.(call) ?? 'unknown')].join();
        model.set(key, (model.get(key) ?? 0) + 1);
      }
      const answered = rows.map(({ start, group, value }) => [
        [windowOf(Date.parse(start), window, timeZone), ...by.map((name) => group[name])].join(),
        Number(value),
      ]);
      expect(Object.fromEntries(answered)).toEqual(Object.fromEntries(model));
      expect(coverage.complete).toBe(true);
    },
  );

  test('of what Tally priced have token classes, by whole UTC days', async () => {
    const merchantId = 'priced';
    const per = { merchantId, per: 1, validFrom: '2026-01-01T00:00:00Z' };
    await running.ingest.prices.set.mutate({ ...per, component: 'input', amount: '2' });
    await running.ingest.prices.set.mutate({ ...per, component: 'cached_input', amount: '1' });
    const event = (id: string, userId: string, metrics: Record<string, string>): UsageEntry => ({
      ...{ id, merchantId, userId, model: 'm', time: `${first}T10:00:00Z`, metrics },
    });
    await running.ingest.usage.record.mutate({
      entries: [
        event('a', 'ada', { prompt_tokens: '10', cached_tokens: '4' }),
        event('b', 'bob', { prompt_tokens: '5' }),
        event('c', 'bob', { prompt_tokens: '5', cost: '7' }),
      ],
    });
    const asked = { merchantIds: [merchantId], startDate: first, endDate: today };
    const { rows } = await query({ ...asked, meter: 'priced_cost', window: 'day', groupBy: ['model', 'user'] });
    const start = `${first}T00:00:00.000Z`;
    expect(rows).toMatchObject([
      { start, group: { user: 'ada', model: 'm' }, value: '16' },
      { start, group: { user: 'bob', model: 'm' }, value: '10' },
    ]);
    const total = async (meter: string) => (await query({ ...asked, meter })).rows.map(({ value }) => value);
    expect(await total('priced_events')).toEqual(['2']);
    expect(await total('priced_input_tokens')).toEqual(['11']);
    expect(await total('priced_cached_tokens')).toEqual(['4']);
    expect(await total('priced_output_tokens')).toEqual([]);
    const ofBob = await query({ ...asked, meter: 'priced_cost', groupBy: ['merchant'], filters: { user: ['bob'] } });
    expect(ofBob.rows).toMatchObject([{ group: { merchant: merchantId }, value: '10' }]);
    await expect(query({ ...asked, meter: 'priced_cost', window: 'hour' })).rejects.toMatchObject(
      refusal('GRAIN_NOT_KEPT'),
    );
  });

  test('of built-in meters take filters, and have no row for a measure that no event has', async () => {
    const range = { startDate: first, endDate: today };
    const { rows } = await query({ ...range, meter: 'requests', filters: { user: ['ada'] } });
    expect(rows.map(({ value }) => value)).toEqual([String(calls.filter(({ userId }) => userId === 'ada').length)]);
    for (const meter of ['cost', 'failed_requests', 'total_tokens'])
      expect((await query({ ...range, meter })).rows).toEqual([]);
    await expect(query({ ...range, meter: 'requests', groupBy: ['property:region'] })).rejects.toMatchObject(
      refusal('INVALID_INPUT'),
    );
  });

  test('must begin and end with the range', async () => {
    const cut = [
      { startDate: '2026-11-03', endDate: '2026-11-08', window: 'week' },
      { startDate: '2026-11-02', endDate: '2026-11-09', window: 'week' },
      { startDate: '2026-10-01', endDate: '2026-10-30', window: 'month' },
      { from: '2026-11-02T00:30:00Z', to: '2026-11-03T00:00:00Z', window: 'hour' },
      { from: '2026-11-02T00:00:00Z', to: '2026-11-03T00:00:00Z', window: 'day', timeZone: 'Asia/Kathmandu' },
      { from: '2026-11-02T00:00:00Z', to: '2026-11-02T00:20:00Z', meter: 'requests' },
      { from: '2026-11-02T00:00:00Z', to: '2026-11-02T01:20:00Z', window: 'hour' },
      { from: '2026-11-03T00:00:00Z', to: '2026-11-02T00:00:00Z' },
    ] as const;
    for (const range of cut)
      await expect(query(range), JSON.stringify(range)).rejects.toMatchObject(refusal('INVALID_INPUT'));
    const whole = [
      { startDate: '2026-11-02', endDate: '2026-11-15', window: 'week' },
      { startDate: '2026-09-01', endDate: '2026-10-31', window: 'month', timeZone: 'Asia/Kathmandu' },
      { from: '2026-11-02T18:15:00Z', to: '2026-11-03T18:15:00Z', window: 'day', timeZone: 'Asia/Kathmandu' },
      { from: '2026-10-31T18:15:00Z', to: '2026-11-30T18:15:00Z', window: 'month', timeZone: 'Asia/Kathmandu' },
    ] as const;
    for (const range of whole) await query(range);
    await expect(query({ startDate: first, endDate: today, groupBy: ['model'] })).rejects.toMatchObject(
      refusal('INVALID_INPUT'),
    );
    await expect(query({ meter: 'nothing', startDate: first, endDate: today })).rejects.toMatchObject(
      refusal('NOT_FOUND'),
    );
  });

  test('of a measure by user that cut days are answered by a meter of the same, without the events', async () => {
    const zoned = { startDate: first, endDate: addDays(today, -1), window: 'day', timeZone: 'Asia/Kathmandu' } as const;
    const ofAda = { ...zoned, meter: 'requests', filters: { user: ['ada'] } };
    const byUser = { ...zoned, meter: 'requests', groupBy: ['user'] };
    const [before, grouped] = [(await query(ofAda)).rows, (await query(byUser)).rows];
    await running.ingest.meters.create.mutate({ key: 'calls', aggregation: 'COUNT', dimensions: ['user', 'model'] });
    while ((await running.db.meters.derive(1_000)).flushes > 0);
    while (await running.db.meters.computeHistory(1_000));
    const sql = new pg.Client({ connectionString: running.databaseUrl });
    await sql.connect();
    await sql.query('create table hidden_events as select * from usage_events');
    await sql.query('delete from usage_events');
    try {
      const uncached = await running.another({ ENABLE_ANALYTICS_CACHE: 'false' });
      const ask = (question: typeof ofAda | typeof byUser) =>
        uncached.client.analytics.meter.query({ merchantIds: ['acme'], ...question } as never);
      expect((await ask(ofAda)).rows).toEqual(before);
      expect((await ask(byUser)).rows).toEqual(grouped);
      await uncached.end();
    } finally {
      await sql.query('insert into usage_events select * from hidden_events');
      await sql.query('drop table hidden_events');
      await sql.end();
    }
    await running.ingest.meters.remove.mutate({ key: 'calls' });
  });

  test('of a total may begin and end at any moment, as long as the events of both are kept', async () => {
    const at = fc.integer({ min: 0, max: DAYS * 86_400_000 - 1 });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...calls.map((call) => call.at)),
        fc.oneof(
          at,
          at.map((ms) => ms % 900_000),
        ),
        async (from, length) => {
          const to = from + length + 1;
          const { rows } = await query({ from: new Date(from).toISOString(), to: new Date(to).toISOString() });
          const within = calls.filter((call) => call.at >= from && call.at < to);
          expect(rows.map(({ value }) => value)).toEqual([String(within.reduce((sum, { images }) => sum + images, 0))]);
        },
      ),
      { numRuns: 12 },
    );
    const sql = new pg.Client({ connectionString: running.databaseUrl });
    await sql.connect();
    await sql.query('insert into usage_closed_days (date, entries) values ($1, 0)', [first]);
    const cut = { from: `${first}T00:00:01Z`, to: `${today}T00:00:00Z` };
    await expect(query(cut)).rejects.toMatchObject(refusal('GRAIN_NOT_KEPT'));
    await query({ ...cut, from: `${first}T00:15:00Z` });
    await sql.query('delete from usage_closed_days');
    await sql.end();
  });

  test('are kept, until something changes them', async () => {
    const question = { startDate: first, endDate: today, groupBy: ['user'] };
    const rate = async () => {
      const { memoryHits, misses } = await running.client.cache.stats.query();
      return { memoryHits, misses };
    };
    const answer = await query(question);
    const kept = await rate();
    expect((await query(question)).rows).toEqual(answer.rows);
    expect(await rate()).toEqual({ ...kept, memoryHits: kept.memoryHits + 1 });
    const late = {
      id: 'late',
      merchantId: 'acme',
      userId: 'eve',
      metrics: { images: '5' },
      time: `${first}T01:00:00Z`,
    };
    await running.ingest.usage.record.mutate({ entries: [late] });
    const group = { user: 'eve' };
    expect((await query(question)).rows).toContainEqual(expect.objectContaining({ group, value: '5' }));
    // A rebuilt meter gives other answers, although no event arrived.
    const sql = new pg.Client({ connectionString: running.databaseUrl });
    await sql.connect();
    while ((await running.db.meters.derive(1_000)).flushes > 0);
    await sql.query(`update meter_quarters set value = 7 where d1 = 'eve'`);
    const rebuild = { key: 'images_made', startDate: first, endDate: first };
    await running.client.cache.clear.mutate();
    expect((await query(question)).rows).toContainEqual(expect.objectContaining({ group, value: '7' }));
    await running.ingest.meters.rebuild.mutate(rebuild);
    expect((await query(question)).rows).toContainEqual(expect.objectContaining({ group, value: '5' }));
    await running.ingest.usage.void.mutate({ merchantId: 'acme', id: 'late', date: first, reason: 'wrong' });
    expect((await query(question)).rows).toEqual(answer.rows);
    await sql.end();
    const requests = { ...question, meter: 'requests' };
    const counted = await query(requests);
    const again = await rate();
    expect((await query(requests)).rows).toEqual(counted.rows);
    expect(await rate()).toEqual({ ...again, memoryHits: again.memoryHits + 1 });
  });

  test('are refused where they cut days whose quarter hours are gone, and whole days stay', async () => {
    const range = { startDate: first, endDate: addDays(first, 1) };
    const before = (await query({ ...range, window: 'day' })).rows;
    while ((await running.db.meters.derive(1_000)).flushes > 0);
    await running.db.meters.fold(addDays(today, 1), 0, 1_000);
    await running.db.meters.prune(addDays(first, 1));
    expect((await query({ ...range, window: 'day' })).rows).toEqual(before);
    await expect(query({ ...range, window: 'hour' })).rejects.toMatchObject(refusal('GRAIN_NOT_KEPT'));
    await expect(query({ ...range, timeZone: 'Asia/Kathmandu' })).rejects.toMatchObject(refusal('GRAIN_NOT_KEPT'));
    expect(
      (await query({ startDate: addDays(first, 1), endDate: addDays(first, 1), window: 'hour' })).rows.length,
    ).toBeGreaterThan(9);
  });
});
