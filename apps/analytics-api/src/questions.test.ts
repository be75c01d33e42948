import { addDays, dayOf, type UsageEntry } from '@tally/contracts';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { KEY, type Running, startAnalytics } from '../test/start.ts';

let running: Running;
const today = dayOf(Date.now());
const DAY = '2025-01-15';
const day = (date: string, more: object = {}) => ({ startDate: date, endDate: date, ...more });

/** Events of one call each: `ok` successful and `failed` failed ones; the first carries the amounts. */
const calls = (
  id: string,
  dimensions: Pick<UsageEntry, 'userId' | 'apiKey' | 'model' | 'provider'>,
  [requests, failed, prompt, completion, cost]: [number, number, string, string, string],
  merchantId = 'acme',
  time = `${DAY}T12:00:00Z`,
): UsageEntry[] => {
  const common = { merchantId, time, ...dimensions };
  const metrics = { prompt_tokens: prompt, completion_tokens: completion, cost };
  return [
    { ...common, id: `${id}-ok`, count: requests - failed, metrics },
    ...(failed > 0 ? [{ ...common, id: `${id}-failed`, count: failed, status: 'failure' as const, metrics: {} }] : []),
  ];
};
const record = async (entries: UsageEntry[]) => {
  const answer = await running.ingest.usage.record.mutate({ entries, backfill: true });
  expect(answer.rejected).toEqual([]);
};

beforeAll(async () => {
  running = await startAnalytics();
  const gpt = { model: 'gpt-4', provider: 'openai' };
  const claude = { model: 'claude-3', provider: 'anthropic' };
  await record([
    ...calls('a', { userId: 'user-1', apiKey: 'key-1', ...gpt }, [40, 1, '1200', '800', '0.5']),
    ...calls('b', { userId: 'user-1', apiKey: 'key-2', ...gpt }, [20, 0, '600', '400', '0.25']),
    ...calls('c', { userId: 'user-1', apiKey: 'key-1', ...claude }, [50, 3, '1500', '1000', '0.625']),
    ...calls('d', { userId: 'user-2', apiKey: 'key-3', ...gpt }, [40, 1, '1200', '800', '0.5']),
  ]);
  await running.client.directory.upsert.mutate({
    entries: [
      { kind: 'user', id: 'user-1', name: 'Ann', email: 'ann@example.com', role: 'admin' },
      { kind: 'user', id: 'user-1', name: 'Ann of Acme', merchantId: 'acme' },
      { kind: 'apiKey', id: 'key-1', name: 'Production' },
    ],
  });
});
afterAll(() => running.stop());

const breakdown = (question: Parameters<Running['client']['analytics']['breakdown']['query']>[0]) =>
  running.client.analytics.breakdown.query(question);
const short = (row: { key?: string; requests: string; totalTokens: string; cost: string }) =>
  [row.key, row.requests, row.totalTokens, row.cost].filter((part) => part !== undefined).join(' ');

describe('a day of four keys', () => {
  test('is summed by every dimension, with success counted where it happened', async () => {
    const summary = await running.client.analytics.summary.query(day(DAY));
    expect(short(summary.totals)).toBe('150 7500 1.875');
    expect(summary.totals).toMatchObject({ failedRequests: '5', successRate: 96.67 });
    expect(summary).toMatchObject({ activeUsers: 2, period: { days: 1 }, comparedWith: day('2025-01-14') });
    expect(summary.trends.requests).toEqual({ current: '150', previous: '0', percentageChange: 100, direction: 'up' });
    const by = async (by: 'user' | 'model' | 'provider') =>
      (await breakdown(day(DAY, { by }) as never)).rows.map(short);
    expect(await by('user')).toEqual(['user-1 110 5500 1.375', 'user-2 40 2000 0.5']);
    expect(await by('model')).toEqual(['gpt-4 100 5000 1.25', 'claude-3 50 2500 0.625']);
    expect(await by('provider')).toEqual(['openai 100 5000 1.25', 'anthropic 50 2500 0.625']);
    const [gpt] = (await breakdown({ ...day(DAY), by: 'model' })).rows;
    expect(gpt).toMatchObject({ successRate: 98, details: { providers: ['openai'] } });
  });

  test.each([
    [{ userIds: ['user-1'] }, '110 5500 1.375'],
    [{ models: ['gpt-4'] }, '100 5000 1.25'],
    [{ apiKeys: ['key-1'] }, '90 4500 1.125'],
    [{ userIds: ['user-1'], models: ['gpt-4'] }, '60 3000 0.75'],
    [{ userIds: ['user-1'], apiKeys: ['key-2'] }, '20 1000 0.25'],
    [{ providers: ['anthropic'], userIds: ['user-2'] }, '0 0 0'],
  ])('filtered by %j is %s, in every answer alike', async (filters, wanted) => {
    const summary = await running.client.analytics.summary.query(day(DAY, filters) as never);
    expect(short(summary.totals)).toBe(wanted);
    expect(summary.byDay.map(short)).toEqual(wanted === '0 0 0' ? [] : [wanted]);
    for (const by of ['user', 'model', 'provider', 'apiKey', 'merchant'] as const) {
      expect(short((await breakdown({ ...day(DAY), ...filters, by })).totals)).toBe(wanted);
    }
    const { points } = await running.client.analytics.timeseries.query({ ...day(DAY), ...filters, interval: '15m' });
    expect(points.filter((point) => point.requests !== '0').map(short)).toEqual(wanted === '0 0 0' ? [] : [wanted]);
  });

  test('names users and keys from the directory as it is now: of one merchant as it names them itself', async () => {
    const users = async (merchantIds?: string[]) =>
      (await breakdown({ ...day(DAY), by: 'user', merchantIds })).rows.map(({ label, details }) => ({
        label,
        details,
      }));
    const general = { label: 'Ann', details: { username: 'Ann', email: 'ann@example.com', role: 'admin' } };
    const own = { label: 'Ann of Acme', details: { username: 'Ann of Acme', email: null, role: null } };
    const nobody = { label: 'user-2', details: { username: 'Unknown User', email: null, role: null } };
    expect(await users(['acme'])).toEqual([own, nobody]);
    expect(await users()).toEqual([general, nobody]);
    expect(await users(['acme', 'other'])).toEqual([general, nobody]);
    await running.client.directory.remove.mutate({ kind: 'user', ids: ['user-1'], merchantId: 'acme' });
    expect(await users(['acme'])).toEqual([general, nobody]);
    const options = await running.client.analytics.filterOptions.query(day(DAY));
    expect(options).toMatchObject({
      models: [
        { id: 'claude-3', providers: ['anthropic'] },
        { id: 'gpt-4', providers: ['openai'] },
      ],
      users: [{ id: 'user-1', label: 'Ann', email: 'ann@example.com' }, { id: 'user-2' }],
      apiKeys: [{ id: 'key-1', label: 'Production' }, { id: 'key-2' }, { id: 'key-3' }],
      merchants: [{ id: 'acme' }],
      truncated: false,
    });
  });
});

describe('what went wrong elsewhere', () => {
  test('a merchant with the name unknown can be asked for', async () => {
    await record(calls('unknown', {}, [7, 0, '70', '0', '0.7'], 'unknown', '2025-02-02T12:00:00Z'));
    const asked = { ...day('2025-02-02'), merchantIds: ['unknown'] };
    expect((await running.client.analytics.summary.query(asked)).totals.requests).toBe('7');
    expect((await breakdown({ ...asked, by: 'merchant' })).rows).toMatchObject([{ key: 'unknown', requests: '7' }]);
    const series = await running.client.analytics.timeseries.query({ ...asked, interval: 'hour' });
    expect(series.points[12]).toMatchObject({ requests: '7' });
    const meter = { ...asked, meter: 'requests', groupBy: ['merchant'] };
    expect((await running.client.analytics.meter.query(meter)).rows).toMatchObject([
      { group: { merchant: 'unknown' }, value: '7' },
    ]);
  });

  test('entries without user, key or model are counted as unknown, and can be asked for', async () => {
    await record(calls('blank', {}, [18, 4, '10', '5', '0.01'], 'blank', '2025-02-01T00:00:00Z'));
    for (const by of ['user', 'model', 'provider', 'apiKey'] as const) {
      const { rows } = await breakdown({ ...day('2025-02-01'), by });
      expect(rows).toMatchObject([{ key: 'unknown', requests: '18', failedRequests: '4', successRate: 77.78 }]);
    }
    expect((await breakdown({ ...day('2025-02-01'), by: 'user', userIds: ['unknown'] })).totals.requests).toBe('18');
    expect((await running.client.analytics.summary.query(day('2025-02-01'))).topUsers).toEqual([]);
  });

  test('a late entry of a closed day is in the next answer, in every process, though the day was cached', async () => {
    const other = (await running.another()).client;
    const date = addDays(today, -2);
    const ask = async () =>
      Promise.all(
        [running.client, other].map(async (client) => [
          (await client.analytics.breakdown.query({ ...day(date), by: 'model' })).totals.requests,
          (
            await client.analytics.summary.query({
              startDate: addDays(date, -40),
              endDate: today,
              merchantIds: ['late'],
            })
          ).totals.requests,
        ]),
      );
    await record(calls('late-1', { model: 'm' }, [1, 0, '1', '1', '1'], 'late', `${date}T10:00:00Z`));
    expect(await ask()).toEqual([
      ['1', '1'],
      ['1', '1'],
    ]);
    expect(await ask()).toEqual([
      ['1', '1'],
      ['1', '1'],
    ]);
    await record(calls('late-2', { model: 'm' }, [2, 0, '1', '1', '1'], 'late', `${date}T11:00:00Z`));
    expect(await ask()).toEqual([
      ['3', '3'],
      ['3', '3'],
    ]);
  });

  test('equal sums are paged without a row lost or repeated, and a cursor belongs to its question', async () => {
    const many = Array.from({ length: 25 }, (_, index) =>
      calls(`p${index}`, { userId: `page-${index}` }, [1, 0, '1', '1', '0.5'], 'paged', '2025-03-01T00:00:00Z'),
    );
    await record(many.flat());
    const question = { ...day('2025-03-01'), by: 'user' as const, limit: 10 };
    const keys: string[] = [];
    let cursor: string | undefined;
    do {
      const page: Awaited<ReturnType<typeof breakdown>> = await breakdown({
        ...question,
        ...(cursor ? { cursor } : {}),
      });
      expect(page.total).toBe(25);
      keys.push(...page.rows.map((row) => row.key));
      cursor = page.nextCursor ?? undefined;
    } while (cursor);
    expect(new Set(keys).size).toBe(25);
    const first = (await breakdown(question)).nextCursor!;
    for (const other of [{ by: 'model' }, { order: 'asc' }, { models: ['m'] }, { cursor: 'rubbish' }] as object[]) {
      await expect(breakdown({ ...question, cursor: first, ...other })).rejects.toMatchObject({
        data: { code: 'INVALID_CURSOR', httpStatus: 400 },
      });
    }
  });

  test('a bad question is the caller’s error, and says what to ask instead', async () => {
    const code = (promise: Promise<unknown>) =>
      promise.then(
        () => 'none',
        (error) => error.data.code as string,
      );
    expect(await code(breakdown({ ...day('2025-02-30'), by: 'user' }))).toBe('INVALID_DATE_FORMAT');
    expect(await code(breakdown({ ...day(DAY), by: 'user', sortBy: 'bad' as 'key' }))).toBe('INVALID_INPUT');
    expect(await code(breakdown({ startDate: '2020-01-01', endDate: DAY, by: 'user' }))).toBe('DATE_RANGE_TOO_LARGE');
    const zone = { ...day(DAY), interval: 'day' as const, timeZone: 'Moon/Base' };
    expect(await code(running.client.analytics.timeseries.query(zone))).toBe('INVALID_INPUT');
    const long = { startDate: '2025-01-01', endDate: '2025-12-31', interval: '15m' as const };
    expect(await code(running.client.analytics.timeseries.query(long))).toBe('TOO_MANY_POINTS');
  });

  test('users within a day are refused, not guessed, once the entries of the day are gone', async () => {
    const date = '2025-04-01';
    await record(calls('gone', { userId: 'u' }, [7, 0, '1', '1', '1'], 'gone', `${date}T12:00:00Z`));
    const ask = (more: object) =>
      running.client.analytics.timeseries.query({ ...day(date), interval: 'hour', merchantIds: ['gone'], ...more });
    const sum = (answer: Awaited<ReturnType<typeof ask>>) =>
      answer.points.reduce((all, each) => all + Number(each.requests), 0);
    expect(sum(await ask({ userIds: ['u'] }))).toBe(7);
    const client = new pg.Client({ connectionString: running.databaseUrl });
    await client.connect();
    await client.query('drop table usage_events_20250401');
    await client.end();
    await expect(ask({ userIds: ['u'] })).rejects.toMatchObject({
      data: { code: 'GRAIN_NOT_KEPT', details: { firstDay: date, lastDay: date } },
    });
    expect(sum(await ask({}))).toBe(7);
    expect(sum(await ask({ userIds: ['u'], interval: 'day' }))).toBe(7);
  });

  test('corrections stand at the beginning of their day, for users within a day too, and where nothing else is', async () => {
    const adjust = (id: string, date: string, requests: string, userId: string) =>
      running.ingest.usage.adjust.mutate({
        id,
        merchantId: 'corrected',
        date,
        metrics: { requests },
        dimensions: { userId },
        reason: 'a test',
      });
    const hours = async (date: string, more: object) => {
      const question = { ...day(date), interval: 'hour' as const, merchantIds: ['corrected'], ...more };
      const { points } = await running.client.analytics.timeseries.query(question);
      return points.flatMap((point, hour) => (point.requests === '0' ? [] : [`${hour}: ${point.requests}`]));
    };
    const date = '2025-05-01';
    await record(calls('own', { userId: 'u' }, [7, 0, '1', '1', '1'], 'corrected', `${date}T12:00:00Z`));
    await adjust('less', date, '-2', 'u');
    await adjust('other', date, '3', 'v');
    expect(await hours(date, { userIds: ['u'] })).toEqual(['0: -2', '12: 7']);
    expect(await hours(date, { userIds: ['u', 'v'] })).toEqual(await hours(date, {}));
    await adjust('alone', '2025-05-02', '5', 'u');
    expect(await hours('2025-05-02', { userIds: ['u'] })).toEqual(['0: 5']);
    expect(await hours('2025-05-02', { groupBy: 'apiKey' })).toEqual(['0: 5']);
  });

  test('a void takes its event out of its own quarter hour, by every path and after a rebuild', async () => {
    const date = '2025-05-05';
    const [event, other] = [
      calls('wrong', { userId: 'u', model: 'm' }, [7, 0, '1', '1', '1'], 'voided', `${date}T20:20:00Z`),
      calls('right', { userId: 'u', model: 'm' }, [2, 0, '1', '1', '1'], 'voided', `${date}T21:00:00Z`),
    ];
    await record([...event, ...other]);
    const { id } = event[0]!;
    await running.ingest.usage.void.mutate({ merchantId: 'voided', id, date, reason: 'a test' });
    const points = async (more: object) => {
      const question = { ...day(date), interval: '15m' as const, merchantIds: ['voided'], ...more };
      const answer = await running.client.analytics.timeseries.query(question);
      return answer.points.flatMap(({ start, requests }) => (requests === '0' ? [] : [`${start}: ${requests}`]));
    };
    const expected = [`${date}T21:00:00.000Z: 2`];
    for (const more of [{}, { groupBy: 'model' }, { userIds: ['u'] }]) expect(await points(more)).toEqual(expected);
    // In Tokyo, the event is of the day after.
    const zone = { timeZone: 'Asia/Tokyo', interval: 'day', startDate: date, endDate: '2025-05-06' };
    expect(await points(zone)).toEqual([`${date}T15:00:00.000Z: 2`]);
    await running.ingest.reconcile.rebuild.mutate({ ...day(date), merchantIds: ['voided'] });
    for (const more of [{}, { userIds: ['u'] }]) expect(await points(more)).toEqual(expected);
  });

  test('the plan of a question is told', async () => {
    const { plan } = await breakdown({ startDate: '2025-01-01', endDate: '2025-03-02', by: 'user', explain: true });
    expect(plan).toEqual([
      { cube: 'usage_platform_users', startDate: '2025-01-01', endDate: '2025-02-28' },
      { cube: 'usage_daily', startDate: '2025-03-01', endDate: '2025-03-02' },
    ]);
  });
});

test('the cache counts what it does, and is cleared and invalidated in every process', async () => {
  const { client } = await running.another();
  const question = { ...day(DAY), by: 'model' as const };
  const misses = async () => (await client.cache.stats.query({})).misses;
  const asked = async () => {
    const before = await misses();
    await client.analytics.breakdown.query(question);
    return (await misses()) - before;
  };
  await client.cache.clear.mutate({});
  expect([await asked(), await asked()]).toEqual([1, 0]);
  await running.client.cache.invalidate.mutate({ ...day(DAY), merchantIds: ['acme'] });
  expect([await asked(), await asked()]).toEqual([1, 0]);
  await running.client.cache.invalidate.mutate({ ...day('2025-01-16'), merchantIds: ['acme'] });
  expect(await asked()).toBe(0);
  await running.client.cache.clear.mutate({});
  expect([await asked(), await asked()]).toEqual([1, 0]);
  expect((await client.cache.warm.mutate(day(DAY))).questions).toBe(8);
});

test('a summary counts the period before again only if something of it changed', async () => {
  const { client } = await running.another();
  const asked = async () => {
    const { misses } = await client.cache.stats.query({});
    const { trends } = await client.analytics.summary.query(day('2024-06-02'));
    const computed = (await client.cache.stats.query({})).misses - misses;
    return { computed, ...trends.requests, before: trends.activeUsers.previous };
  };
  const count = (id: string, date: string) =>
    record(calls(id, { userId: id }, [2, 0, '1', '1', '1'], 'trends', `${date}T12:00:00Z`));
  await count('now', '2024-06-02');
  expect(await asked()).toMatchObject({ computed: 2, current: '2', previous: '0', before: '0' });
  await count('later', '2024-06-02');
  expect(await asked()).toMatchObject({ computed: 1, current: '4', previous: '0' });
  await count('then', '2024-06-01');
  expect(await asked()).toMatchObject({ computed: 2, current: '4', previous: '2', before: '1' });
  expect(await asked()).toMatchObject({ computed: 0, current: '4', previous: '2', before: '1' });
});

test('a new name is in the next answer of its merchant, and no other answer is computed for it', async () => {
  const { client } = await running.another();
  const asked = async (merchantId: string) => {
    const { misses } = await client.cache.stats.query({});
    const { rows } = await client.analytics.breakdown.query({ ...day(DAY), by: 'apiKey', merchantIds: [merchantId] });
    return { computed: (await client.cache.stats.query({})).misses - misses, rows };
  };
  const before = await asked('acme');
  await asked('globex');
  const entry = { kind: 'apiKey', id: before.rows[0]!.key, merchantId: 'acme', name: 'The key of Acme' } as const;
  await running.client.directory.upsert.mutate({ entries: [entry] });
  expect(await asked('acme')).toMatchObject({ computed: 1, rows: [{ label: entry.name }, {}, {}] });
  expect(await asked('globex')).toMatchObject({ computed: 0 });
  await running.client.directory.upsert.mutate({ entries: [entry] });
  expect(await asked('acme')).toMatchObject({ computed: 0 });
  await running.client.directory.remove.mutate({ kind: 'apiKey', ids: [entry.id], merchantId: 'acme' });
  expect((await asked('acme')).rows).toEqual(before.rows);
});

test('calls beyond the rate are refused, in every process, and without asking where that is known', async () => {
  const noon = Date.parse('2026-11-23T12:00:00Z');
  const [one, two] = [
    await running.another({ ADMIN_ANALYTICS_RATE_LIMIT: '3' }, () => noon),
    await running.another({ ADMIN_ANALYTICS_RATE_LIMIT: '3' }, () => noon),
  ];
  const ask = ({ client }: typeof one) =>
    client.analytics.breakdown.query({ ...day(DAY), by: 'model' }).then(
      () => 'answered',
      (error) => error.data.code,
    );
  const first = await Promise.all([ask(one), ask(two), ask(one), ask(two), ask(one)]);
  expect([...first].sort()).toEqual(['RATE_LIMITED', 'RATE_LIMITED', 'answered', 'answered', 'answered']);
  expect([await ask(one), await ask(one), await ask(two)]).toEqual(Array(3).fill('RATE_LIMITED'));
  const lookups = async () => {
    const { memoryHits, redisHits, joined, misses } = await one.client.cache.stats.query({});
    return memoryHits + redisHits + joined + misses;
  };
  // A refused call does not wait for reads that it has started.
  const wasKnown = [first[0], first[2], first[4]].includes('RATE_LIMITED');
  await vi.waitFor(async () => expect(await lookups()).toBe(wasKnown ? 3 : 4), { timeout: 60_000 });
  expect([await ask(one), await ask(one)]).toEqual(Array(2).fill('RATE_LIMITED'));
  expect(await lookups()).toBe(wasKnown ? 3 : 4);
});

test('the first day there is has a period before it', async () => {
  const { comparedWith } = await running.client.analytics.summary.query(day('1000-01-01'));
  expect(comparedWith).toEqual({ startDate: '0999-12-31', endDate: '0999-12-31' });
});

test('no more days are invalidated at once than an answer may take', async () => {
  const range = { startDate: '1000-01-01', endDate: '9998-12-31', merchantIds: ['acme'] };
  await expect(running.client.cache.invalidate.mutate(range)).rejects.toMatchObject({
    data: { code: 'DATE_RANGE_TOO_LARGE' },
  });
});

test('a caller bound to a merchant reads and names that merchant alone', async () => {
  const { key } = await running.ingest.keys.create.mutate({ name: 'bound', role: 'viewer', merchantId: 'globex' });
  const bound = running.clientOf(running.app, key);
  expect((await bound.analytics.breakdown.query({ ...day(DAY), by: 'user' })).total).toBe(0);
  const forbidden = { data: { code: 'MERCHANT_FORBIDDEN' } };
  await expect(bound.analytics.summary.query({ ...day(DAY), merchantIds: ['acme'] })).rejects.toMatchObject(forbidden);
  await expect(bound.directory.list.query({ kind: 'user', merchantId: 'acme' })).rejects.toMatchObject(forbidden);
  await expect(bound.cache.clear.mutate({})).rejects.toMatchObject({ data: { code: 'FORBIDDEN' } });
  const file = await running.app.request(`/export/usage.csv?startDate=${DAY}&endDate=${DAY}&by=user`, {
    headers: { authorization: `Bearer ${key}` },
  });
  expect((await file.text()).trim().split('\n')).toHaveLength(1);
});

test('the same answers come over REST, under the names of the filters there too', async () => {
  const post = async (path: string, body: unknown) =>
    running.app.request(`/api/v1/admin/usage/${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  const settled = (answer: unknown) => ({ ...(answer as object), coverage: null });
  const filters = { ...day(DAY), userIds: ['user-1'], models: ['gpt-4'] };
  const aliased = { ...day(DAY), userIds: ['user-1'], modelIds: ['gpt-4'] };
  const summary = await (await post('analytics', aliased)).json();
  expect(settled(summary)).toEqual(settled(await running.client.analytics.summary.query(filters)));
  for (const by of ['user', 'model', 'provider'] as const) {
    const rows = await (await post(`by-${by}`, aliased)).json();
    expect(settled(rows)).toEqual(settled(await breakdown({ ...filters, by })));
  }
  const bad = await post('by-user', day('2025-02-30'));
  expect([bad.status, await bad.json()]).toMatchObject([400, { error: { data: { code: 'INVALID_DATE_FORMAT' } } }]);
  const odd = ['{"__proto__":1', '{"constructor":1', '{"models":["a"],"modelIds":["b"]'].map((start) =>
    JSON.parse(`${start},"startDate":"${DAY}","endDate":"${DAY}"}`),
  );
  for (const body of [[], ...odd])
    expect(await (await post('by-user', body)).json()).toMatchObject({ error: { data: { code: 'INVALID_INPUT' } } });
});
