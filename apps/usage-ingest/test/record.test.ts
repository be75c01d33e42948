import type { UsageEntry } from '@tally/contracts';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;
const newMerchant = () => `merchant-${merchants++}`;

beforeAll(async () => {
  ingest = await startIngest({ MAX_BODY_BYTES: String(1024 * 1024) });
});
afterAll(() => ingest.close());

const entry = (more: Record<string, unknown> = {}): UsageEntry => ({
  id: 'e1',
  merchantId: 'acme',
  time: '2026-11-22T10:00:00Z',
  metrics: { prompt_tokens: '10' },
  ...more,
});

const record = (entries: unknown[], more = {}) =>
  ingest.admin.usage.record.mutate({ entries: entries as UsageEntry[], ...more });
const current = async (merchantId: string, more: { date?: string; metricTypes?: string[] } = {}) =>
  (await ingest.admin.usage.current.query({ merchantId, ...more })).metrics;

describe('usage.record', () => {
  test('counts an entry once, however often it is sent', async () => {
    const merchantId = newMerchant();
    const batch = [entry({ merchantId }), entry({ merchantId, id: 'e2', status: 'failure', count: 3 })];
    expect(await record(batch)).toEqual({ accepted: 2, duplicates: 0, rejected: [], warnings: [] });
    expect(await record(batch)).toEqual({ accepted: 0, duplicates: 2, rejected: [], warnings: [] });
    expect(await record([...batch, entry({ merchantId, id: 'e3' })])).toEqual({
      accepted: 1,
      duplicates: 2,
      rejected: [],
      warnings: [],
    });
    expect(await current(merchantId)).toEqual({ requests: '5', failed_requests: '3', prompt_tokens: '30' });
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect(await record(batch)).toEqual({ accepted: 0, duplicates: 2, rejected: [], warnings: [] });
    expect(await current(merchantId)).toEqual({ requests: '5', failed_requests: '3', prompt_tokens: '30' });
  });

  test('the same id on another day, or of another merchant, is another entry', async () => {
    const [one, other] = [newMerchant(), newMerchant()];
    const batch = [
      entry({ merchantId: one }),
      entry({ merchantId: one, time: '2026-11-21T10:00:00Z' }),
      entry({ merchantId: other }),
    ];
    expect((await record(batch)).accepted).toBe(3);
  });

  test.each([
    'ada@example.com',
    'https://shop.example/a?b={1}&c=%7B',
    'Łódź 東京 🙂',
    'a:2026-11-22:requests',
    '{acme}',
  ])('counts the events of a merchant called %s', async (merchantId) => {
    expect((await record([entry({ merchantId }), entry({ merchantId, id: 'e2' })])).accepted).toBe(2);
    expect(await current(merchantId)).toEqual({ requests: '2', prompt_tokens: '20' });
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect(await current(merchantId)).toEqual({ requests: '2', prompt_tokens: '20' });
    const scope = { startDate: '2026-11-22', endDate: '2026-11-22', merchantIds: [merchantId] };
    expect(await ingest.admin.reconcile.check.query(scope)).toMatchObject({ balanced: true });
    expect((await ingest.admin.flush.run.mutate({ date: '2026-11-22' })).disagreeing).toEqual([]);
  });

  test('counts whole JSON numbers like decimal strings', async () => {
    const merchantId = newMerchant();
    const batch = [
      entry({ merchantId, metrics: { prompt_tokens: 7, cost: 2, queries: Number.MAX_SAFE_INTEGER } }),
      entry({ merchantId, id: 'e2', metrics: { prompt_tokens: '3', cost: '0.5', queries: 0 } }),
    ];
    const { rejected } = await record(batch);
    expect(rejected).toMatchObject([{ index: 0, message: expect.stringContaining('from 0 to 10^15') }]);
    expect((await record([entry({ merchantId, metrics: { prompt_tokens: 7, cost: 2, queries: 5 } })])).accepted).toBe(
      1,
    );
    expect(await current(merchantId)).toEqual({ requests: '2', prompt_tokens: '10', cost: '2.5', queries: '5' });
  });

  test('quantities above 2^53 come back to the unit', async () => {
    const merchantId = newMerchant();
    const entries = Array.from({ length: 1000 }, (_, index) =>
      entry({
        merchantId,
        id: `e${index}`,
        metrics: { prompt_tokens: '1000000000000000', cost: '999999.999999999', bytes: '999999999999999' },
      }),
    );
    expect((await record(entries)).accepted).toBe(1000);
    const expected = {
      prompt_tokens: '1000000000000000000',
      cost: '999999999.999999',
      bytes: '999999999999999000',
      requests: '1000',
    };
    expect(await current(merchantId)).toEqual(expected);
    await ingest.admin.flush.merchant.mutate({ merchantId, date: '2026-11-22' });
    const rows = await ingest.db.usage.merchantUsage({
      merchantIds: [merchantId],
      startDate: '2026-11-22',
      endDate: '2026-11-22',
    });
    expect(rows.map((row) => [row.metric_type, row.metric_value])).toEqual([
      ['bytes', 999_999_999_999_999_000n],
      ['cost', 999_999_999_999_999_000n],
      ['prompt_tokens', 10n ** 18n],
      ['requests', 1000n],
    ]);
  });

  test('a total that would pass 9·10^18 is refused with its code, and nothing of it is counted', async () => {
    const merchantId = newMerchant();
    const batch = (round: number) =>
      Array.from({ length: 1000 }, (_, index) =>
        entry({ merchantId, id: `${round}-${index}`, metrics: { big: '1000000000000000' } }),
      );
    for (let round = 0; round < 9; round++) expect((await record(batch(round))).accepted).toBe(1000);
    const { accepted, rejected } = await record(batch(9));
    expect(accepted).toBe(0);
    expect(rejected[0]).toMatchObject({ index: 0, code: 'TOTAL_LIMIT' });
    expect(await current(merchantId)).toEqual({ big: '9000000000000000000', requests: '9000' });
  });

  test('a repeat within the batch shares the fate of the first: counted once, or refused with it', async () => {
    const merchantId = newMerchant();
    const late = entry({ merchantId, time: '2025-01-01T00:00:00Z' });
    expect(await record([late, late, entry({ merchantId }), entry({ merchantId })])).toMatchObject({
      accepted: 1,
      duplicates: 1,
      rejected: [{ index: 0 }, { index: 1 }],
    });
  });

  test.each([
    ['with many fields too many', (many: object) => entry({ id: 'long', ...many })],
    ['with many metrics', (many: object) => entry({ id: 'long', metrics: many })],
    ['with many properties', (many: object) => entry({ id: 'long', properties: many })],
    ['with a long name', () => entry({ id: 'long', metrics: { ['x'.repeat(500_000)]: 'y' } })],
    [
      'with long names',
      () => entry({ id: 'long', properties: { ['x'.repeat(200_000)]: {}, ['y'.repeat(200_000)]: {} } }),
    ],
  ])('what is said of an entry %s is short', async (_, made) => {
    const many = Object.fromEntries(Array.from({ length: 19_000 }, (_, index) => [`Bad ${index}`, 'x']));
    const { rejected } = await record([made(many)]);
    expect(rejected).toMatchObject([
      { index: 0, id: 'long', code: 'INVALID_ENTRY', message: expect.stringMatching(/^(entry|metrics|properties)/) },
    ]);
    expect(rejected[0]!.message.length).toBeLessThan(1_000);
  });

  const bad: [string, unknown, string][] = [
    ['a number', 7, 'INVALID_ENTRY'],
    ['null', null, 'INVALID_ENTRY'],
    ['an array', [], 'INVALID_ENTRY'],
    ['a text', 'entry', 'INVALID_ENTRY'],
    ['without an id', { merchantId: 'acme', metrics: {} }, 'INVALID_ENTRY'],
    ['with a field too many', entry({ colour: 'red' }), 'INVALID_ENTRY'],
    ['with an empty id', entry({ id: '' }), 'INVALID_ENTRY'],
    ['with the id null', entry({ id: 'null' }), 'INVALID_ENTRY'],
    ['with the id undefined', entry({ id: 'undefined' }), 'INVALID_ENTRY'],
    ['with the id NaN', entry({ id: 'NaN' }), 'INVALID_ENTRY'],
    ['with the id None', entry({ id: 'None' }), 'INVALID_ENTRY'],
    ['with the id unknown', entry({ id: 'unknown' }), 'INVALID_ENTRY'],
    ['with the id [object Object]', entry({ id: '[object Object]' }), 'INVALID_ENTRY'],
    ['with the id   ', entry({ id: '  ' }), 'INVALID_ENTRY'],
    ['with an id of 129 characters', entry({ id: 'x'.repeat(129) }), 'INVALID_ENTRY'],
    ['with a control character in its id', entry({ id: 'a\u0000b' }), 'INVALID_ENTRY'],
    ['with an id beyond ASCII', entry({ id: 'é' }), 'INVALID_ENTRY'],
    ['with an empty merchant', entry({ merchantId: '' }), 'INVALID_ENTRY'],
    ['with a merchant of 129 bytes', entry({ merchantId: `${'ü'.repeat(64)}x` }), 'INVALID_ENTRY'],
    ['with space at the end of its merchant', entry({ merchantId: 'acme ' }), 'INVALID_ENTRY'],
    ['with an invisible character in its merchant', entry({ merchantId: 'ac\u200bme' }), 'INVALID_ENTRY'],
    ['with negative tokens', entry({ metrics: { prompt_tokens: '-1' } }), 'INVALID_ENTRY'],
    ['with fractional tokens', entry({ metrics: { prompt_tokens: '1.5' } }), 'INVALID_ENTRY'],
    ['with a number of half a token', entry({ metrics: { prompt_tokens: 0.5 } }), 'INVALID_ENTRY'],
    ['with a fractional number of dollars', entry({ metrics: { cost: 0.25 } }), 'INVALID_ENTRY'],
    ['with a negative number', entry({ metrics: { prompt_tokens: -1 } }), 'INVALID_ENTRY'],
    ['with a number of 2^53', entry({ metrics: { prompt_tokens: 2 ** 53 } }), 'INVALID_ENTRY'],
    ['with a boolean for a quantity', entry({ metrics: { prompt_tokens: true } }), 'INVALID_ENTRY'],
    ['with 10 decimals of cost', entry({ metrics: { cost: '0.0000000001' } }), 'INVALID_ENTRY'],
    ['with 2^63 tokens', entry({ metrics: { prompt_tokens: '9223372036854775808' } }), 'INVALID_ENTRY'],
    ['with over 10^15 tokens', entry({ metrics: { prompt_tokens: '1000000000000001' } }), 'INVALID_ENTRY'],
    ['with over a million dollars', entry({ metrics: { cost: '1000000.000000001' } }), 'INVALID_ENTRY'],
    ['with exponents', entry({ metrics: { prompt_tokens: '1e3' } }), 'INVALID_ENTRY'],
    [
      'with a prototype for a metric type',
      JSON.parse('{"id":"p","merchantId":"acme","metrics":{"__proto__":"5"}}'),
      'INVALID_ENTRY',
    ],
    [
      'with a prototype for a field',
      JSON.parse('{"id":"p","merchantId":"acme","metrics":{},"__proto__":{"x":1}}'),
      'INVALID_ENTRY',
    ],
    [
      'with a prototype for a property',
      JSON.parse('{"id":"p","merchantId":"acme","metrics":{},"properties":{"__proto__":1}}'),
      'INVALID_ENTRY',
    ],
    [
      'with 33 metric types',
      entry({ metrics: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`m${i}`, '1'])) }),
      'INVALID_ENTRY',
    ],
    [
      'with 17 properties',
      entry({ properties: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`p${i}`, 1])) }),
      'INVALID_ENTRY',
    ],
    ['with a nested property', entry({ properties: { a: { b: 1 } } }), 'INVALID_ENTRY'],
    ['with a control character in a dimension', entry({ model: 'gpt\u0000' }), 'INVALID_ENTRY'],
    ['with a lone surrogate', entry({ userId: '\ud800' }), 'INVALID_ENTRY'],
    ['with a day that does not exist', entry({ time: '2026-02-30T10:00:00Z' }), 'INVALID_ENTRY'],
    ['with a time without its zone', entry({ time: '2026-11-22T10:00:00' }), 'INVALID_ENTRY'],
    ['with a count of 0', entry({ count: 0 }), 'INVALID_ENTRY'],
    ['with half a call', entry({ count: 1.5 }), 'INVALID_ENTRY'],
    ['with another status', entry({ status: 'maybe' }), 'INVALID_ENTRY'],
    ['that sends requests', entry({ metrics: { requests: '1' } }), 'RESERVED_METRIC'],
    ['that sends total_tokens', entry({ metrics: { total_tokens: '1' } }), 'RESERVED_METRIC'],
    ['from the future', entry({ time: '2026-11-22T12:10:01Z' }), 'TIME_IN_FUTURE'],
    ['from before the retention', entry({ time: '2026-10-17T23:59:59Z' }), 'TIME_TOO_OLD'],
  ];

  test.each(bad)('an entry %s rejects itself with its index and a code, never the batch', async (_, value, code) => {
    const merchantId = newMerchant();
    const result = await record([entry({ merchantId }), value, entry({ merchantId, id: 'e2' })]);
    expect(result.accepted).toBe(2);
    expect(result.rejected).toEqual([expect.objectContaining({ index: 1, code })]);
    expect(result.rejected[0]!.message).not.toBe('');
    expect(await current(merchantId)).toEqual({ requests: '2', prompt_tokens: '20' });
  });

  test('names of prototypes are metric types like any other', async () => {
    const merchantId = newMerchant();
    expect((await record([entry({ merchantId, metrics: { constructor: '2', tostring: '3' } })])).accepted).toBe(1);
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect(await current(merchantId)).toEqual({ constructor: '2', tostring: '3', requests: '1' });
  });

  test('entries older than Redis keeps go to the journal directly, and a backfill further back', async () => {
    const merchantId = newMerchant();
    const old = [entry({ merchantId, time: '2026-11-01T00:00:00Z' })];
    expect((await record(old)).accepted).toBe(1);
    expect(await record(old)).toMatchObject({ accepted: 0, duplicates: 1 });
    expect(await current(merchantId, { date: '2026-11-01' })).toEqual({ requests: '1', prompt_tokens: '10' });
    const ancient = [entry({ merchantId, time: '2024-02-29T00:00:00Z' })];
    expect((await record(ancient)).rejected).toMatchObject([{ code: 'TIME_TOO_OLD' }]);
    expect((await record(ancient, { backfill: true })).accepted).toBe(1);
    expect(await current(merchantId, { date: '2024-02-29' })).toEqual({ requests: '1', prompt_tokens: '10' });
  });

  const post = (body: string, headers: Record<string, string> = {}) =>
    ingest.app.request('/trpc/usage.record', {
      method: 'POST',
      body,
      headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json', ...headers },
    });

  test.each([
    ['not JSON', '{"entries":[', 400, 'INVALID_JSON'],
    ['no entries', '{"entries":[]}', 400, 'INVALID_INPUT'],
    ['1001 entries', JSON.stringify({ entries: Array.from({ length: 1001 }, () => entry()) }), 400, 'BATCH_TOO_LARGE'],
    ['entries that are no list', '{"entries":{"0":1}}', 400, 'INVALID_INPUT'],
    ['a field too many', JSON.stringify({ entries: [entry()], dryRun: true }), 400, 'INVALID_INPUT'],
    ['50 MB', JSON.stringify({ entries: [entry({ id: 'x'.repeat(50_000_000) })] }), 413, 'BODY_TOO_LARGE'],
    ['a number', '1', 400, 'INVALID_INPUT'],
    ['null', 'null', 400, 'INVALID_INPUT'],
    ['deeply nested', `${'['.repeat(200_000)}`, 400, 'INVALID_INPUT'],
  ])('a body of %s is a 4xx with a code', async (_, body, status, code) => {
    const response = await post(body);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ error: { data: { code } } });
  });
});

describe('usage.track', () => {
  test('adds its metric alone and answers the total of the day', async () => {
    const merchantId = newMerchant();
    const track = (more: object = {}) =>
      ingest.admin.usage.track.mutate({ merchantId, metricType: 'queries', ...more });
    expect(await track()).toEqual({ total: '1' });
    expect(await track({ by: '41' })).toEqual({ total: '42' });
    expect(await track({ id: 'once', by: 8 })).toEqual({ total: '50' });
    expect(await track({ id: 'once', by: 8 })).toEqual({ total: '50' });
    const totals = await Promise.all(Array.from({ length: 100 }, () => track()));
    // Merged calls get the same total; the last ones that of all.
    expect(Math.max(...totals.map(({ total }) => Number(total)))).toBe(150);
    expect(Math.min(...totals.map(({ total }) => Number(total)))).toBeGreaterThan(50);
    await ingest.admin.flush.merchant.mutate({ merchantId });
    expect(await current(merchantId)).toEqual({ queries: '150' });
    const { rows } = await ingest.admin.usage.recent.query({ merchantId });
    expect(rows.reduce((calls, row) => calls + Number(row.count), 0)).toBe(103);
  });

  test.each([
    { metricType: 'requests' },
    { by: '-1' },
    { by: '1.5' },
    { by: -1 },
    { metricType: 'Queries' },
    { time: '2027-01-01T00:00:00Z' },
  ])('refuses %o', async (more) => {
    const call = ingest.admin.usage.track.mutate({ merchantId: newMerchant(), metricType: 'queries', ...more });
    await expect(call).rejects.toMatchObject({ data: { httpStatus: 400 } });
  });
});

describe('usage.recent', () => {
  test('flushes what waits, then shows the newest entries', async () => {
    const merchantId = newMerchant();
    const at = (second: number) =>
      entry({ merchantId, id: `e${second}`, time: `2026-11-22T10:00:0${second}Z`, properties: { a: 1 } });
    await record([at(1), at(2)]);
    await ingest.admin.flush.merchant.mutate({ merchantId });
    await record([at(3)]);
    const { rows, complete } = await ingest.admin.usage.recent.query({ merchantId, limit: 2 });
    expect(complete).toBe(true);
    expect(rows.map(({ id, flushed }) => [id, flushed])).toEqual([
      ['e3', true],
      ['e2', true],
    ]);
    expect(rows[1]).toMatchObject({
      metrics: { requests: '1', prompt_tokens: '10' },
      properties: { a: 1 },
      userId: null,
    });
  });
});

describe('flush', () => {
  test('says what it counted, and what waits', async () => {
    const merchantId = newMerchant();
    await record([entry({ merchantId })]);
    ingest.clock.now += 5_000;
    const waiting = await ingest.admin.flush.status.query({});
    expect(waiting).toMatchObject({ date: '2026-11-22', aggregated: false });
    const run = await ingest.admin.flush.run.mutate({ date: '2026-11-22' });
    expect(run).toMatchObject({ success: true, errors: [], disagreeing: [] });
    expect(run.keysProcessed).toBeGreaterThanOrEqual(2);
    expect(await ingest.admin.flush.status.query({})).toMatchObject({ aggregated: true, pendingKeys: 0, lagMs: 0 });
    const range = await ingest.admin.flush.range.mutate({ startDate: '2026-11-20', endDate: '2026-11-22' });
    expect(range.days.map((day) => day.date)).toEqual(['2026-11-20', '2026-11-21', '2026-11-22']);
  });

  test('names a total that does not agree', async () => {
    const merchantId = newMerchant();
    await record([entry({ merchantId })]);
    await ingest.admin.flush.merchant.mutate({ merchantId });
    await ingest.redis.incrby(`usage:${merchantId}:2026-11-22:prompt_tokens`, 5);
    const { disagreeing } = await ingest.admin.flush.merchant.mutate({ merchantId, date: '2026-11-22' });
    expect(disagreeing).toEqual([
      { merchantId, date: '2026-11-22', metricType: 'prompt_tokens', live: '15', merchantUsage: '10' },
    ]);
  });
});

describe('callers', () => {
  test('a key does what its role may, on its own merchant, until it is revoked', async () => {
    const merchantId = newMerchant();
    const made = await ingest.admin.keys.create.mutate({ name: 'gateway', role: 'producer', merchantId });
    const producer = ingest.clientWith(made.key);
    expect((await producer.usage.record.mutate({ entries: [entry({ merchantId })] })).accepted).toBe(1);
    const foreign = [entry({ merchantId: 'someone-else' })];
    await expect(producer.usage.record.mutate({ entries: foreign })).rejects.toMatchObject({
      data: { code: 'MERCHANT_FORBIDDEN', httpStatus: 403 },
    });
    const mixed = await producer.usage.record.mutate({ entries: [...foreign, entry({ merchantId, id: 'e2' })] });
    expect(mixed).toMatchObject({ accepted: 1, rejected: [{ index: 0, code: 'MERCHANT_FORBIDDEN' }] });
    await expect(producer.keys.list.query({ includeRevoked: false })).rejects.toMatchObject({
      data: { code: 'FORBIDDEN', httpStatus: 403 },
    });
    await expect(
      producer.usage.record.mutate({ entries: [entry({ merchantId })], backfill: true }),
    ).rejects.toMatchObject({ data: { httpStatus: 403 } });

    const { rows } = await ingest.admin.keys.list.query({ includeRevoked: false });
    expect(JSON.stringify(rows)).not.toContain(made.key);
    expect(rows.find((row) => row.id === made.id)).toMatchObject({ name: 'gateway', role: 'producer', merchantId });

    await ingest.admin.keys.revoke.mutate({ id: made.id });
    ingest.clock.now += 1_001;
    await expect(producer.usage.record.mutate({ entries: [entry({ merchantId })] })).rejects.toMatchObject({
      data: { code: 'UNAUTHORIZED', httpStatus: 401 },
    });
  });

  test('a key that is bound to a merchant is not for what is about all', async () => {
    const { key } = await ingest.admin.keys.create.mutate({ name: 'boss of one', role: 'admin', merchantId: 'one' });
    const bound = ingest.clientWith(key);
    await expect(bound.keys.list.query({ includeRevoked: false })).rejects.toMatchObject({
      data: { code: 'MERCHANT_FORBIDDEN' },
    });
    await expect(bound.flush.run.mutate({})).rejects.toMatchObject({ data: { code: 'MERCHANT_FORBIDDEN' } });
    await expect(bound.usage.current.query({ merchantId: 'two' })).rejects.toMatchObject({
      data: { code: 'MERCHANT_FORBIDDEN' },
    });
    await expect(bound.usage.current.query({ merchantId: 'one' })).resolves.toMatchObject({ metrics: {} });
  });
});
