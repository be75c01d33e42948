import { addDays, type Day, dayOf } from '@tally/contracts';
import { startServiceProcess } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type FakeLitellm, type Row, startFakeLitellm, textOf } from '../../../test/fake-litellm.ts';
import { KEY, type Running, startAnalytics } from '../../../test/start.ts';

const LITELLM_KEY = 'sk-the-master-key';
const LOGS = '/sources/litellm/logs';
const EVENTS = '/sources/litellm/api/v1/events';

let litellm: FakeLitellm;
let running: Running;
/** Each test has days of its own: what was told of a day stays told. */
let day = addDays(dayOf(Date.now()), -3);

beforeAll(async () => {
  litellm = await startFakeLitellm(LITELLM_KEY);
  running = await startAnalytics({
    LITELLM_URL: litellm.url,
    LITELLM_KEY,
    LITELLM_PULL_INTERVAL_MS: '0',
    LITELLM_TIMEOUT_MS: '2000',
    LITELLM_MAX_BODY_BYTES: '1000000',
  });
});
afterAll(async () => {
  await running?.stop();
  await litellm?.stop();
});
beforeEach(() => {
  day = addDays(day, -3);
  Object.assign(litellm, {
    rows: [],
    daily: [],
    asked: [],
    dailyPageSize: 1000,
    maxPageSize: 1000,
    before: () => undefined,
  });
});

const pull = (startDate = day, endDate = startDate) => running.client.litellm.pull.mutate({ startDate, endDate });

async function totals(startDate: Day = day, endDate: Day = startDate) {
  const { totals } = await running.client.analytics.breakdown.query({ startDate, endDate, by: 'merchant' });
  return totals;
}

function row(id: string, more: Partial<Row> = {}): Row {
  return {
    request_id: id,
    call_type: 'acompletion',
    api_key: 'a'.repeat(64),
    spend: '0.00012',
    total_tokens: 30,
    prompt_tokens: 20,
    completion_tokens: 10,
    startTime: `${day}T10:00:00.123000Z`,
    endTime: `${day}T10:00:02.000000Z`,
    model: 'openai/gpt-4o',
    model_group: 'gpt-4o',
    custom_llm_provider: 'openai',
    user: 'ada',
    metadata: {},
    cache_hit: 'False',
    request_tags: [],
    messages: {},
    response: {},
    status: 'success',
    ...more,
  };
}

/** The StandardLoggingPayload of the call that a row tells of. */
function payload({ request_id, startTime, spend, user, api_key, cache_hit, metadata, ...rest }: Row) {
  return {
    ...rest,
    id: request_id,
    startTime: Date.parse(startTime) / 1000 + 0.0004,
    endTime: Date.parse(startTime) / 1000 + 2,
    response_cost: Number(spend),
    cache_hit: cache_hit === 'True' ? true : cache_hit === 'False' ? false : null,
    metadata: { ...(metadata as object), user_api_key_hash: api_key, user_api_key_user_id: user },
  };
}

async function push(body: string, { path = LOGS, key = KEY, type = 'application/json' } = {}) {
  const response = await running.app.request(path, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': type },
    body,
  });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

const event = (id: string, time: string, data: object = {}) => ({
  specversion: '1.0',
  type: 'litellm_tokens',
  id,
  time,
  subject: 'ada',
  source: 'litellm-proxy',
  data: { model: 'gpt-4o', cost: 0.00012, prompt_tokens: 20, completion_tokens: 10, total_tokens: 30, ...data },
});

describe('pull', () => {
  test('rows of every kind are counted exactly, and again nothing is added', async () => {
    litellm.rows = [
      row('plain', { spend: '0.0016150000000000001' }),
      row('tiny', { spend: '1e-05', startTime: `${day} 11:00:00.5+00:00` }),
      row('half', { spend: '5e-10', startTime: `${day}T12:00:00.999999` }),
      row('below', { spend: '4.9e-10', startTime: `${day}T12:00:00+00:00` }),
      row('failed', { spend: '0', status: 'failure', total_tokens: 0, prompt_tokens: 0, completion_tokens: 0 }),
      row('old failure', { spend: '0', status: null, metadata: '{"status":"failure"}', user: null, api_key: '' }),
      row('plain_cache_hit1763781050.1', { spend: '0.0', cache_hit: 'True' }),
      row('mcp', { call_type: 'call_mcp_tool', model: '', total_tokens: 0, prompt_tokens: 0, completion_tokens: 0 }),
      row('x'.repeat(300)),
      row('nulls', { spend: '0', metadata: null, total_tokens: null, prompt_tokens: null, completion_tokens: null }),
      row('first', { startTime: `${day}T00:00:00.000Z` }),
      row('last', { startTime: `${day}T23:59:59.999Z` }),
      row('of the next day', { startTime: `${addDays(day, 1)}T00:00:00.000Z` }),
      row('of the day before', { startTime: `${addDays(day, -1)}T23:59:59.999Z` }),
      row('half a token', { startTime: `${day}T10:00:00Z`, prompt_tokens: 1.5 }),
    ];
    const first = await pull();
    expect(first).toMatchObject({
      status: 'COMPLETED',
      percent: 100,
      calls: 13,
      accepted: 12,
      duplicates: 0,
      rejected: 1,
      missing: 0,
    });
    expect(first.rejections).toMatchObject([{ id: 'half a token', code: 'INVALID_ENTRY' }]);
    const expected = {
      requests: '12',
      failedRequests: '2',
      promptTokens: '180',
      completionTokens: '90',
      cost: '0.002105001',
    };
    expect(await totals()).toMatchObject(expected);
    expect(await pull()).toMatchObject({ status: 'COMPLETED', accepted: 0, duplicates: 12 });
    expect(await totals()).toMatchObject(expected);
  });

  test('all pages are read, also where a row is shown on two of them or comes while they are read', async () => {
    litellm.rows = Array.from({ length: 2_500 }, (_, index) => row(`page-${index}`, { spend: '0.000000001' }));
    let calls = 0;
    litellm.before = (path) => {
      // In front of what was read: every later row moves to the next place.
      if (path === '/spend/logs/v2' && ++calls === 2)
        litellm.rows.unshift(row('came late', { spend: '0.000000001', startTime: `${day}T09:00:00.000Z` }));
      return undefined;
    };
    expect(await pull()).toMatchObject({ calls: 2_501, accepted: 2_501, missing: 0 });
    expect(await totals()).toMatchObject({ requests: '2501', cost: '0.000002501' });
  });

  test('a row that LiteLLM counts and never shows is reported, and the rest is recorded', async () => {
    litellm.before = (path) =>
      path === '/spend/logs/v2'
        ? {
            status: 200,
            body: `{"data":[${textOf(row('shown'))}],"total":2,"page":1,"page_size":1000,"total_pages":1}`,
          }
        : undefined;
    expect(await pull()).toMatchObject({ status: 'COMPLETED', accepted: 1, missing: 1 });
  });

  test('a version that takes at most 100 rows a page is asked for so many', async () => {
    litellm.maxPageSize = 100;
    litellm.rows = Array.from({ length: 150 }, (_, index) => row(`small-${index}`));
    expect(await pull()).toMatchObject({ accepted: 150 });
  });

  test('a page larger than what is read is asked for in smaller ones', async () => {
    const messages = 'm'.repeat(2_000);
    litellm.rows = Array.from({ length: 600 }, (_, index) => row(`large-${index}`, { messages }));
    expect(await pull()).toMatchObject({ accepted: 600 });
  });

  test('a range of many rows is read in parts, each row once', async () => {
    litellm.rows = Array.from({ length: 21_000 }, (_, index) =>
      row(`many-${index}`, { startTime: new Date(Date.parse(`${day}T00:00:00Z`) + index * 4_000).toISOString() }),
    );
    // On a slow machine it answers after 20 seconds with what it has so far, and goes on.
    await pull();
    const newest = async () => (await running.client.litellm.status.query({})).pulls[0];
    await expect.poll(async () => (await newest())?.status, { timeout: 60_000 }).not.toBe('RUNNING');
    expect(await newest()).toMatchObject({ status: 'COMPLETED', calls: 21_000, accepted: 21_000, missing: 0 });
    expect(await totals()).toMatchObject({ requests: '21000', promptTokens: '420000' });
  });

  test('429, 5xx, an answer that is too slow and a connection that breaks are tried again', async () => {
    litellm.rows = [row('patient')];
    const troubles = [
      { status: 429, body: '{"error":{"message":"Rate limit","code":"429"}}', headers: { 'retry-after': '0' } },
      { status: 503, body: 'upstream connect error' },
      'slow',
      'broken',
    ] as const;
    let calls = 0;
    litellm.before = async (path) => {
      const trouble = path === '/spend/logs/v2' ? troubles[calls++] : undefined;
      if (trouble === 'broken') return 'broken';
      if (trouble !== 'slow') return trouble;
      await new Promise((resolve) => setTimeout(resolve, 2_100).unref());
      return undefined;
    };
    expect(await pull()).toMatchObject({ status: 'COMPLETED', accepted: 1 });
    expect(calls).toBe(5);
  });

  test('a refused key is said at once, and what fails half-way is gone on with', async () => {
    litellm.rows = [row('a'), row('b', { startTime: `${addDays(day, 1)}T10:00:00.000Z` })];
    litellm.before = (path, query) =>
      path === '/spend/logs/v2' && query.get('start_date')!.startsWith(addDays(day, 1))
        ? { status: 401, body: '{"error":{"message":"expired"}}' }
        : undefined;
    await expect(pull(day, addDays(day, 1))).rejects.toMatchObject({
      data: { code: 'SOURCE_REFUSED', httpStatus: 502 },
    });
    const { pulls } = await running.client.litellm.status.query({});
    expect(pulls[0]).toMatchObject({ status: 'FAILED', accepted: 1, error: { code: 'SOURCE_REFUSED' } });
    litellm.before = () => undefined;
    expect(await pull(day, addDays(day, 1))).toMatchObject({ accepted: 1, duplicates: 1 });
  });

  test('an answer that is not what LiteLLM says is an error with a code', async () => {
    for (const body of ['<html>', '{"data":{}}', '[]']) {
      litellm.before = () => ({ status: 200, body });
      await expect(pull(), body).rejects.toMatchObject({ data: { code: 'SOURCE_UNREADABLE' } });
    }
  });

  test('one pull runs at a time, however many processes there are', async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const asked = new Promise<void>((resolve) => {
      litellm.before = async () => {
        resolve();
        await held;
        return undefined;
      };
    });
    const first = pull();
    await asked;
    const other = await running.another();
    await expect(other.client.litellm.pull.mutate({ startDate: day })).rejects.toMatchObject({
      data: { code: 'SOURCE_BUSY', httpStatus: 409 },
    });
    release();
    expect(await first).toMatchObject({ status: 'COMPLETED' });
  });

  test('a process killed in the middle of a pull goes on with it when it is started again', async () => {
    litellm.rows = [row('a'), row('b', { startTime: `${addDays(day, 1)}T10:00:00.000Z` })];
    const secondDay = new Promise<void>((resolve) => {
      litellm.before = async (path, query) => {
        if (path !== '/spend/logs/v2' || !query.get('start_date')!.startsWith(addDays(day, 1))) return undefined;
        resolve();
        return new Promise(() => {});
      };
    });
    const process = await startServiceProcess('analytics-api', running.serviceEnv());
    onTestFinished(() => process.kill());
    const url = `${process.url}/trpc/litellm.pull`;
    const asking = fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
      body: JSON.stringify({ startDate: day, endDate: addDays(day, 1) }),
    }).catch(() => undefined);
    await secondDay;
    await process.kill();
    await asking;
    litellm.before = () => undefined;
    litellm.asked = [];
    await process.start();
    await expect
      .poll(async () => (await running.client.litellm.status.query({})).pulls[0], { timeout: 10_000 })
      .toMatchObject({ kind: 'hand', status: 'COMPLETED', accepted: 2, duplicates: 0 });
    // It went on where it was, not from the start.
    expect(litellm.asked.map((query) => query.get('start_date')!.slice(0, 10))).toEqual([addDays(day, 1)]);
    expect(await totals(day, addDays(day, 1))).toMatchObject({ requests: '2' });
    await process.stop();
  });

  test('on schedule each row is found, also one that came late; a day is read whole once its calls have settled', async () => {
    const own = await startAnalytics({ LITELLM_URL: litellm.url, LITELLM_KEY, LITELLM_PULL_INTERVAL_MS: '0' });
    onTestFinished(() => own.stop());
    const [before, next] = [addDays(day, -1), addDays(day, 1)];
    let clock = Date.parse(`${day}T12:00:00Z`);
    litellm.rows = [
      row('yesterday', { startTime: `${before}T01:00:00Z` }),
      row('today', { startTime: `${day}T11:00:00Z` }),
      row('not yet', { startTime: `${day}T11:59:30Z` }),
    ];
    const { client } = await own.another({ LITELLM_PULL_INTERVAL_MS: '50' }, () => clock);
    const status = () => client.litellm.status.query({ startDate: before, endDate: next });
    const pulledSince = async (count: number) =>
      (await status()).pulls.filter(({ status }) => status === 'COMPLETED').length > count;
    await expect.poll(() => pulledSince(1), { timeout: 10_000 }).toBe(true);
    const counted = async () =>
      (await own.client.analytics.breakdown.query({ startDate: before, endDate: next, by: 'merchant' })).totals
        .requests;
    expect(await counted()).toBe('2');
    // Later than the overlap of two pulls reaches back: only the whole day finds it.
    litellm.rows.push(row('late', { startTime: `${day}T09:00:00Z` }));
    clock = Date.parse(`${next}T03:00:00Z`);
    await expect.poll(counted, { timeout: 10_000 }).toBe('4');
    await expect
      .poll(async () => (await status()).days.map(({ date, seen, differs }) => [date, seen?.requests, differs]), {
        timeout: 10_000,
      })
      .toEqual([
        [before, '1', true],
        [day, '3', true],
      ]);
  });

  test('a range ahead, backwards or too long is refused', async () => {
    const today = dayOf(Date.now());
    await expect(pull(addDays(today, 2))).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
    await expect(pull(day, addDays(day, -1))).rejects.toMatchObject({ data: { code: 'INVALID_DATE_ORDER' } });
    await expect(pull(addDays(day, -500), day)).rejects.toMatchObject({ data: { code: 'DATE_RANGE_TOO_LARGE' } });
  });
});

describe('daily sums', () => {
  const sums = (model: string, more: object = {}) => ({
    date: day,
    model,
    api_key: 'k'.repeat(64),
    spend: '0.30000000000000004',
    prompt_tokens: 100,
    completion_tokens: 50,
    api_requests: 5,
    failed_requests: 1,
    ...more,
  });
  const told = async (client = running.client) =>
    (await client.litellm.status.query({ startDate: day, endDate: day })).days[0];

  test('all pages of a day are summed, and compared with its calls', async () => {
    litellm.rows = [row('counted')];
    litellm.daily = [
      sums('gpt-4o', {
        spend: '0.00012',
        api_requests: 1,
        failed_requests: 0,
        prompt_tokens: 20,
        completion_tokens: 10,
      }),
    ];
    await pull();
    expect(await told()).toMatchObject({ toldBy: 'calls', differs: false, error: null });
    litellm.dailyPageSize = 1;
    litellm.daily.push(sums('claude'));
    await pull();
    expect(await told()).toMatchObject({
      differs: true,
      seen: { requests: '1', cost: '0.00012' },
      reported: { requests: '6', failedRequests: '1', promptTokens: '120', cost: '0.30012' },
    });
    expect(await totals()).toMatchObject({ requests: '1' });
  });

  test('where they cannot be had the calls are counted all the same, and it is said', async () => {
    litellm.rows = [row('counted')];
    litellm.before = (path) =>
      path === '/user/daily/activity' ? { status: 403, body: '{"detail":"Only admins"}' } : undefined;
    expect(await pull()).toMatchObject({ status: 'COMPLETED', accepted: 1 });
    expect((await told())?.error).toContain('403');
  });

  test('with fill they stand for a day without calls, once; calls of that day are then not counted', async () => {
    const { client, app } = await running.another({ LITELLM_DAILY: 'fill' });
    const range = { startDate: day, endDate: day };
    litellm.dailyPageSize = 1;
    litellm.daily = [
      sums('gpt-4o'),
      sums('claude', { api_requests: 1, failed_requests: 1 }),
      sums('gpt-4o', { api_key: 'other' }),
    ];
    await client.litellm.pull.mutate(range);
    const expected = { requests: '11', failedRequests: '3', promptTokens: '300', cost: '0.9' };
    expect(await totals()).toMatchObject(expected);
    expect(await told(client)).toMatchObject({ toldBy: 'sums', reported: { requests: '11' }, error: null });
    await client.litellm.pull.mutate(range);
    litellm.rows = [row('late')];
    expect(await client.litellm.pull.mutate(range)).toMatchObject({
      accepted: 0,
      rejected: 1,
      rejections: [{ id: 'late', code: 'DAY_TOLD_BY_SUMS' }],
    });
    const pushed = await app.request(LOGS, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify(payload(row('late'))),
    });
    expect(await pushed.json()).toMatchObject({ accepted: 0, rejected: [{ code: 'DAY_TOLD_BY_SUMS' }] });
    expect(await totals()).toMatchObject(expected);
  });

  test('with fill they do not stand for a day that calls were pushed of', async () => {
    day = addDays(dayOf(Date.now()), -2);
    const { client } = await running.another({ LITELLM_DAILY: 'fill' });
    await push(JSON.stringify(payload(row('pushed'))));
    litellm.daily = [sums('gpt-4o')];
    await client.litellm.pull.mutate({ startDate: day, endDate: day });
    expect(await told(client)).toMatchObject({ toldBy: 'calls', differs: true });
    expect(await totals()).toMatchObject({ requests: '1' });
    day = addDays(dayOf(Date.now()), -120);
  });
});

describe('which merchant a call belongs to', () => {
  const metadata = { user_api_key_team_id: 'team-1', user_api_key_org_id: 'org-1', user_api_key_alias: 'Ada’s key' };

  test.each([
    ['fixed', 'litellm'],
    ['team', 'team-1'],
    ['organization', 'org-1'],
    ['key_alias', expect.stringMatching(/^Ada-s-key:[0-9a-f]{16}$/)],
  ])('is said by %s, the same for what is pushed and pulled', async (from, merchant) => {
    const { app, client } = await running.another({ LITELLM_MERCHANT_FROM: from });
    litellm.rows = [row(`of-${from}`, { metadata }), row(`none-${from}`)];
    await client.litellm.pull.mutate({ startDate: day });
    const pushed = await app.request(LOGS, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify(litellm.rows.map(payload)),
    });
    // Old days are for admins to backfill; what is known there already is a repeat or too old, never another entry.
    expect(await pushed.json()).toMatchObject({ accepted: 0 });
    const { rows } = await client.analytics.breakdown.query({
      startDate: day,
      endDate: day,
      by: 'merchant',
      sortBy: 'key',
    });
    const keys = rows.map(({ key }) => key);
    expect(keys).toContainEqual(merchant);
    expect(keys).toContain('litellm');
  });
});

describe('LiteLLM’s own id of a call', () => {
  test('is the identity where rows have it, and events of openmeter are then refused', async () => {
    const { app, client } = await running.another({ LITELLM_ID_FROM: 'call', LITELLM_MERCHANT: 'by-call' });
    day = addDays(dayOf(Date.now()), -6);
    litellm.rows = [row('call-1'), row('call-2_cache_hit1763781050.1', { cache_hit: 'True' })];
    const told = litellm.rows.map((each) => ({
      ...payload(each),
      id: 'chatcmpl-reused',
      litellm_call_id: each.request_id.replace(/_cache_hit.*/, ''),
    }));
    const send = (path: string, body: object) =>
      app.request(path, { method: 'POST', headers: { authorization: `Bearer ${KEY}` }, body: JSON.stringify(body) });
    expect(await (await send(LOGS, told)).json()).toMatchObject({ accepted: 2 });
    expect(await client.litellm.pull.mutate({ startDate: day, endDate: day })).toMatchObject({
      accepted: 0,
      duplicates: 2,
    });
    expect((await send(EVENTS, event('om', new Date().toISOString()))).status).toBe(400);
    day = addDays(dayOf(Date.now()), -200);
  });
});

describe('push', () => {
  const today = () => dayOf(Date.now());
  const recent = (id: string, more: Partial<Row> = {}) =>
    row(id, { startTime: new Date(Date.now() - 5 * 60_000).toISOString(), ...more });

  test('an array, one object and lines are read, whatever the content type says', async () => {
    const bodies = {
      array: JSON.stringify([payload(recent('a1')), null, payload(recent('a2'))]),
      single: JSON.stringify(payload(recent('s1'))),
      lines: `${JSON.stringify(payload(recent('l1')))}\n${JSON.stringify(payload(recent('l2')))}`,
    };
    const answers = await Promise.all(Object.values(bodies).map((body) => push(body)));
    expect(answers.map(({ status, text }) => [status, JSON.parse(text)])).toEqual([
      [200, { accepted: 2, duplicates: 0, empty: 1, rejected: [] }],
      [200, { accepted: 1, duplicates: 0, empty: 0, rejected: [] }],
      [200, { accepted: 2, duplicates: 0, empty: 0, rejected: [] }],
    ]);
  });

  test('a bad item rejects itself and is named', async () => {
    const good = JSON.stringify(payload(recent('good')));
    const bad = [
      '{"id":"no start"}',
      '7',
      '{"id":"negative","startTime":1763781050.5,"response_cost":-1}',
      '{"id":"half","startTime":1763781050.5,"prompt_tokens":1.5}',
      '{"startTime":1763781050.5}',
      '{"id":"v1","startTime":"2026-11-22 03:10:50.099123","usage":"{\'prompt_tokens\': 3}"}',
      '{"id":"huge","startTime":1763781050.5,"response_cost":1e300}',
    ];
    const { status, text } = await push(`[${[good, ...bad].join(',')}]`);
    expect(status).toBe(200);
    const answer = JSON.parse(text);
    expect(answer.accepted).toBe(1);
    expect(answer.rejected.map(({ index, code }: { index: number; code: string }) => [index, code])).toEqual(
      bad.map((_, index) => [index + 1, 'INVALID_ENTRY']),
    );
    const lines = await push(`${JSON.stringify(payload(recent('line')))}\n{"id":\n`);
    expect(JSON.parse(lines.text)).toMatchObject({ accepted: 1, rejected: [{ index: 1, code: 'INVALID_ENTRY' }] });
  });

  test('NaN, as Python writes it, is no cost and no reason to refuse the batch', async () => {
    const body = JSON.stringify([payload(recent('nan'))]).replace(/"response_cost":[^,]+/, '"response_cost":NaN');
    expect(JSON.parse((await push(body)).text)).toMatchObject({ accepted: 1 });
  });

  test('who may not record, bodies that are none or too large are refused', async () => {
    expect(await push('[]', { key: 'unknown-key' })).toMatchObject({ status: 401 });
    const viewer = await running.ingest.keys.create.mutate({ name: 'viewer', role: 'viewer' });
    expect(await push('[]', { key: viewer.key })).toMatchObject({ status: 403 });
    expect(await push('')).toMatchObject({ status: 400 });
    expect(await push('[{]')).toMatchObject({ status: 400 });
    expect(await push(`[${'null,'.repeat(10_001)}null]`)).toMatchObject({ status: 400 });
    expect(await push(`["${'x'.repeat(1_000_001)}"]`)).toMatchObject({ status: 413 });
    expect(await push('[]')).toMatchObject({ status: 200 });
  });

  test('a key bound to a merchant records calls of that merchant alone', async () => {
    const { app } = await running.another({ LITELLM_MERCHANT_FROM: 'team' });
    const { key } = await running.ingest.keys.create.mutate({ name: 'p', role: 'producer', merchantId: 'team-a' });
    const send = (items: object[]) =>
      app.request(LOGS, { method: 'POST', headers: { authorization: `Bearer ${key}` }, body: JSON.stringify(items) });
    const of = (id: string, team: string | null) => payload(recent(id, { metadata: { user_api_key_team_id: team } }));
    const mixed = await send([of('own', 'team-a'), of('other', 'team-b'), of('none', null)]);
    expect(await mixed.json()).toMatchObject({
      accepted: 1,
      rejected: [{ code: 'MERCHANT_FORBIDDEN' }, { code: 'MERCHANT_FORBIDDEN' }],
    });
    expect((await send([of('other', 'team-b')])).status).toBe(403);
  });

  test('with ingest away nothing is acknowledged', async () => {
    const { app } = await running.another({ USAGE_INGEST_URL: 'http://127.0.0.1:9' });
    for (const [path, body] of [
      [LOGS, payload(recent('lost'))],
      [EVENTS, event('lost', new Date().toISOString())],
    ] as const) {
      const response = await app.request(path, {
        method: 'POST',
        headers: { authorization: `Bearer ${KEY}` },
        body: JSON.stringify(body),
      });
      expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    }
  });

  test('an event of the openmeter callback is answered as OpenMeter does', async () => {
    const type = 'application/cloudevents+json';
    const one = event('om-1', new Date().toISOString());
    expect(await push(JSON.stringify(one), { path: EVENTS, type })).toMatchObject({ status: 204, text: '' });
    expect(await push(JSON.stringify(one), { path: EVENTS, type })).toMatchObject({ status: 204 });
    const bare = JSON.stringify({ ...event('om-2', '2026-11-22T03:10:50.099123+00:00'), data: null, time: null });
    expect(await push(bare, { path: EVENTS, type })).toMatchObject({ status: 204 });
    const bad = await push(JSON.stringify({ ...one, subject: '' }), { path: EVENTS, type });
    expect([bad.status, bad.headers.get('content-type')]).toEqual([400, 'application/problem+json']);
    expect(JSON.parse(bad.text)).toMatchObject({ status: 400, detail: expect.stringContaining('subject') });
    const batch = await push(JSON.stringify([one, { ...one, id: 'om-3' }]), {
      path: EVENTS,
      type: 'application/cloudevents-batch+json',
    });
    expect(batch.status).toBe(204);
  });

  test('tokens of a cache and of reasoning are counted beside the sums that include them', async () => {
    const usage_object = {
      prompt_tokens_details: { cached_tokens: 7 },
      completion_tokens_details: { reasoning_tokens: 3 },
      cache_creation_input_tokens: 2,
    };
    await push(JSON.stringify([payload(recent('parts', { metadata: { usage_object } }))]));
    const { rows } = await running.ingest.usage.recent.query({ merchantId: 'litellm', limit: 1 });
    expect(rows[0]).toMatchObject({
      id: 'parts',
      date: today(),
      model: 'openai/gpt-4o',
      provider: 'openai',
      userId: 'ada',
      apiKey: 'a'.repeat(64),
      metrics: { prompt_tokens: '20', cached_tokens: '7', cache_write_tokens: '2', reasoning_tokens: '3' },
    });
  });
});

describe('push and pull of the same call', () => {
  test('count once around a midnight, whichever time is told first', async () => {
    day = addDays(dayOf(Date.now()), -2);
    const next = addDays(day, 1);
    litellm.rows = ['x', 'y', 'z'].map((id) => row(`midnight-${id}`, { startTime: `${day}T23:59:58.000Z` }));
    const sent = (id: string) =>
      push(JSON.stringify(event(`midnight-${id}`, `${next}T00:00:01.500000+00:00`)), { path: EVENTS });
    expect((await sent('x')).status).toBe(204);
    await push(JSON.stringify([payload(litellm.rows[1]!)]));
    const before = BigInt((await totals(day, next)).requests);
    expect(await pull(day, next)).toMatchObject({ calls: 3, accepted: 1, duplicates: 2 });
    await sent('y');
    await sent('z');
    expect(BigInt((await totals(day, next)).requests)).toBe(before + 1n);
    day = addDays(dayOf(Date.now()), -150);
  });

  test('count once for a hit of the cache, whose ids differ', async () => {
    day = addDays(dayOf(Date.now()), -5);
    litellm.rows = [row('same_cache_hit1763781050.123', { cache_hit: 'True', spend: '0' })];
    const [told] = litellm.rows;
    await push(JSON.stringify([payload({ ...told!, request_id: 'same_cache_hit1763781050.129' })]));
    expect(await pull()).toMatchObject({ accepted: 0, duplicates: 1 });
    day = addDays(dayOf(Date.now()), -180);
  });

  test('any interleaving, with any repeats, is the plain sum', async () => {
    const started = addDays(dayOf(Date.now()), -4);
    const last = addDays(started, 1);
    let run = 0;
    let ended = async () => {};
    const calls = fc.uniqueArray(
      fc.record({
        id: fc.nat(1_000),
        // Two days, often around the midnight between them.
        second: fc.oneof(fc.integer({ min: 0, max: 172_799 }), fc.integer({ min: 86_390, max: 86_410 })),
        ms: fc.nat(999),
        prompt: fc.nat(5_000),
        completion: fc.nat(5_000),
        spend: fc.double({ min: 0, max: 2, noNaN: true }),
        failed: fc.boolean(),
        hit: fc.boolean(),
      }),
      { selector: ({ id }) => id, minLength: 1, maxLength: 8 },
    );
    const steps = fc.array(
      fc.record({ way: fc.constantFrom('pull', 'generic', 'openmeter'), which: fc.array(fc.nat(7), { maxLength: 8 }) }),
      { minLength: 1, maxLength: 6 },
    );
    await fc.assert(
      fc
        .asyncProperty(calls, steps, async (chosen, plan) => {
          const merchant = `interleaved-${run++}`;
          const { client, app, end } = await running.another({ LITELLM_MERCHANT: merchant, LITELLM_DAILY: 'off' });
          ended = end;
          const told = chosen.map(({ id, second, ms, prompt, completion, spend, failed, hit }) =>
            row(`${id}${hit ? '_cache_hit1763781050.5' : ''}`, {
              startTime: new Date(Date.parse(`${started}T00:00:00Z`) + second * 1000 + ms).toISOString(),
              spend: String(spend),
              prompt_tokens: prompt,
              completion_tokens: completion,
              total_tokens: prompt + completion,
              cache_hit: hit ? 'True' : 'False',
              status: failed ? 'failure' : 'success',
            }),
          );
          litellm.rows = told;
          const send = (path: string, body: object) =>
            app.request(path, {
              method: 'POST',
              headers: { authorization: `Bearer ${KEY}` },
              body: JSON.stringify(body),
            });
          for (const { way, which } of plan) {
            const some = which.flatMap((index) => told[index % told.length] ?? []);
            if (way === 'pull') await client.litellm.pull.mutate({ startDate: started, endDate: last });
            else if (way === 'generic') {
              const again = some.map((each) => ({
                ...each,
                request_id: each.request_id.replace(/_cache_hit.*/, `_cache_hit${Date.now() / 1000}`),
              }));
              const response = await send(LOGS, again.map(payload));
              expect(await response.json()).toMatchObject({ rejected: [] });
            } else
              for (const each of some.filter(
                ({ status, cache_hit }) => status === 'success' && cache_hit === 'False',
              )) {
                const late = new Date(Date.parse(each.startTime) + 1_500).toISOString();
                const data = {
                  cost: Number(each.spend),
                  prompt_tokens: each.prompt_tokens,
                  completion_tokens: each.completion_tokens,
                };
                expect((await send(EVENTS, event(each.request_id, late, data))).status).toBe(204);
              }
          }
          await client.litellm.pull.mutate({ startDate: started, endDate: last });
          const { totals: counted } = await client.analytics.breakdown.query({
            startDate: started,
            // An event that came first has its time of sending.
            endDate: addDays(last, 1),
            merchantIds: [merchant],
            by: 'merchant',
          });
          const sum = (of: (each: (typeof chosen)[number]) => bigint) =>
            chosen.reduce((total, each) => total + of(each), 0n);
          expect({
            requests: counted.requests,
            failed: counted.failedRequests,
            prompt: counted.promptTokens,
            completion: counted.completionTokens,
            nanos: nanosOf(counted.cost),
          }).toEqual({
            requests: String(chosen.length),
            failed: String(chosen.filter(({ failed }) => failed).length),
            prompt: String(sum(({ prompt }) => BigInt(prompt))),
            completion: String(sum(({ completion }) => BigInt(completion))),
            nanos: sum(({ spend }) => roundedNanos(String(spend))),
          });
        })
        .afterEach(() => ended()),
      { numRuns: 25 },
    );
  });
});

const nanosOf = (usd: string) => {
  const [whole = '0', fraction = ''] = usd.split('.');
  return BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'));
};

/** Half up, by the digits of the shortest decimal: written another way than the code under test does it. */
function roundedNanos(text: string): bigint {
  const [mantissa = '0', exponent = '0'] = text.split('e');
  const [whole = '0', fraction = ''] = mantissa.split('.');
  let numerator = BigInt(whole + fraction) * 10n ** 9n;
  let denominator = 10n ** BigInt(fraction.length);
  if (Number(exponent) < 0) denominator *= 10n ** BigInt(-Number(exponent));
  else numerator *= 10n ** BigInt(Number(exponent));
  return (numerator * 2n + denominator) / (denominator * 2n);
}
