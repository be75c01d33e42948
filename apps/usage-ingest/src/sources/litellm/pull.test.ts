import { addDays, dayOf } from '@tally/contracts';
import { startServiceProcess } from '@tally/testkit';
import { describe, expect, onTestFinished, test } from 'vitest';
import { textOf } from '../../../test/fake-litellm.ts';
import { KEY, LITELLM_KEY, LitellmWorld, startBesideLitellm } from '../../../test/litellm-world.ts';

const world = new LitellmWorld();

describe('pull', () => {
  test('counts rows of every kind exactly, and adds nothing the second time', async () => {
    world.litellm.rows = [
      world.row('plain', { spend: '0.0016150000000000001' }),
      world.row('tiny', { spend: '1e-05', startTime: `${world.day} 11:00:00.5+00:00` }),
      world.row('half', { spend: '5e-10', startTime: `${world.day}T12:00:00.999999` }),
      world.row('below', { spend: '4.9e-10', startTime: `${world.day}T12:00:00+00:00` }),
      world.row('failed', { spend: '0', status: 'failure', total_tokens: 0, prompt_tokens: 0, completion_tokens: 0 }),
      world.row('old failure', { spend: '0', status: null, metadata: '{"status":"failure"}', user: null, api_key: '' }),
      world.row('plain_cache_hit1763781050.1', { spend: '0.0', cache_hit: 'True' }),
      world.row('mcp', {
        call_type: 'call_mcp_tool',
        model: '',
        total_tokens: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
      }),
      world.row('x'.repeat(300)),
      world.row('nulls', {
        spend: '0',
        metadata: null,
        total_tokens: null,
        prompt_tokens: null,
        completion_tokens: null,
      }),
      world.row('first', { startTime: `${world.day}T00:00:00.000Z` }),
      world.row('last', { startTime: `${world.day}T23:59:59.999Z` }),
      world.row('of the next day', { startTime: `${addDays(world.day, 1)}T00:00:00.000Z` }),
      world.row('of the day before', { startTime: `${addDays(world.day, -1)}T23:59:59.999Z` }),
      world.row('half a token', { startTime: `${world.day}T10:00:00Z`, prompt_tokens: 1.5 }),
    ];
    const first = await world.pull();
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
    expect(await world.totals()).toMatchObject(expected);
    expect(await world.pull()).toMatchObject({ status: 'COMPLETED', accepted: 0, duplicates: 12 });
    expect(await world.totals()).toMatchObject(expected);
  });

  test('reads all pages, also where a row is on two of them or is added meanwhile', async () => {
    world.litellm.rows = Array.from({ length: 2_500 }, (_, index) =>
      world.row(`page-${index}`, { spend: '0.000000001' }),
    );
    let calls = 0;
    world.litellm.before = (path) => {
      // Inserted before rows already read: every later row moves by one.
      if (path === '/spend/logs/v2' && ++calls === 2)
        world.litellm.rows.unshift(
          world.row('came late', { spend: '0.000000001', startTime: `${world.day}T09:00:00.000Z` }),
        );
      return undefined;
    };
    expect(await world.pull()).toMatchObject({ calls: 2_501, accepted: 2_501, missing: 0 });
    expect(await world.totals()).toMatchObject({ requests: '2501', cost: '0.000002501' });
  });

  test('reports a row that LiteLLM counts but never returns, and records the rest', async () => {
    world.litellm.before = (path) =>
      path === '/spend/logs/v2'
        ? {
            status: 200,
            body: `{"data":[${textOf(world.row('shown'))}],"total":2,"page":1,"page_size":1000,"total_pages":1}`,
          }
        : undefined;
    expect(await world.pull()).toMatchObject({ status: 'COMPLETED', accepted: 1, missing: 1 });
  });

  test('asks for 100 rows a page where LiteLLM allows no more', async () => {
    world.litellm.maxPageSize = 100;
    world.litellm.rows = Array.from({ length: 150 }, (_, index) => world.row(`small-${index}`));
    expect(await world.pull()).toMatchObject({ accepted: 150 });
  });

  test('asks for smaller pages where one is too large to read', async () => {
    const messages = 'm'.repeat(2_000);
    world.litellm.rows = Array.from({ length: 600 }, (_, index) => world.row(`large-${index}`, { messages }));
    expect(await world.pull()).toMatchObject({ accepted: 600 });
  });

  test('reads a range of many rows in parts, each row once', async () => {
    world.litellm.rows = Array.from({ length: 21_000 }, (_, index) =>
      world.row(`many-${index}`, {
        startTime: new Date(Date.parse(`${world.day}T00:00:00Z`) + index * 4_000).toISOString(),
      }),
    );
    // On a slow machine it answers after 20 seconds with its progress, and continues.
    await world.pull();
    const newest = async () => (await world.running.client.litellm.status.query({})).pulls[0];
    await expect.poll(async () => (await newest())?.status).not.toBe('RUNNING');
    expect(await newest()).toMatchObject({ status: 'COMPLETED', calls: 21_000, accepted: 21_000, missing: 0 });
    expect(await world.totals()).toMatchObject({ requests: '21000', promptTokens: '420000' });
  });

  test('reports rejected credentials at once, and continues where a pull failed', async () => {
    world.litellm.rows = [world.row('a'), world.row('b', { startTime: `${addDays(world.day, 1)}T10:00:00.000Z` })];
    world.litellm.before = (path, query) =>
      path === '/spend/logs/v2' && query.get('start_date')!.startsWith(addDays(world.day, 1))
        ? { status: 401, body: '{"error":{"message":"expired"}}' }
        : undefined;
    await expect(world.pull(world.day, addDays(world.day, 1))).rejects.toMatchObject({
      data: { code: 'SOURCE_REFUSED', httpStatus: 502 },
    });
    const { pulls } = await world.running.client.litellm.status.query({});
    expect(pulls[0]).toMatchObject({ status: 'FAILED', accepted: 1, error: { code: 'SOURCE_REFUSED' } });
    world.litellm.before = () => undefined;
    expect(await world.pull(world.day, addDays(world.day, 1))).toMatchObject({ accepted: 1, duplicates: 1 });
  });

  test('fails with SOURCE_UNREADABLE for an answer of another form', async () => {
    for (const body of ['<html>', '{"data":{}}', '[]']) {
      world.litellm.before = () => ({ status: 200, body });
      await expect(world.pull(), body).rejects.toMatchObject({ data: { code: 'SOURCE_UNREADABLE' } });
    }
  });

  test('runs one pull at a time over all processes', async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const asked = new Promise<void>((resolve) => {
      world.litellm.before = async () => {
        resolve();
        await held;
        return undefined;
      };
    });
    const first = world.pull();
    await asked;
    const other = await world.running.another();
    await expect(other.client.litellm.pull.mutate({ startDate: world.day })).rejects.toMatchObject({
      data: { code: 'SOURCE_BUSY', httpStatus: 409 },
    });
    release();
    expect(await first).toMatchObject({ status: 'COMPLETED' });
  });

  test('continues the pull of a killed process when it is started again', async () => {
    world.litellm.rows = [world.row('a'), world.row('b', { startTime: `${addDays(world.day, 1)}T10:00:00.000Z` })];
    const secondDay = new Promise<void>((resolve) => {
      world.litellm.before = async (path, query) => {
        if (path !== '/spend/logs/v2' || !query.get('start_date')!.startsWith(addDays(world.day, 1))) return undefined;
        resolve();
        return new Promise(() => {});
      };
    });
    const process = await startServiceProcess('usage-ingest', world.running.serviceEnv());
    onTestFinished(() => process.kill());
    const url = `${process.url}/trpc/litellm.pull`;
    const asking = fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
      body: JSON.stringify({ startDate: world.day, endDate: addDays(world.day, 1) }),
    }).catch(() => undefined);
    await secondDay;
    await process.kill();
    await asking;
    world.litellm.before = () => undefined;
    world.litellm.asked = [];
    await process.start();
    await expect
      .poll(async () => (await world.running.client.litellm.status.query({})).pulls[0])
      .toMatchObject({ kind: 'hand', status: 'COMPLETED', accepted: 2, duplicates: 0 });
    // It continued, and did not start over.
    expect(world.litellm.asked.map((query) => query.get('start_date')!.slice(0, 10))).toEqual([addDays(world.day, 1)]);
    expect(await world.totals(world.day, addDays(world.day, 1))).toMatchObject({ requests: '2' });
    await process.stop();
  });

  test('finds each row on schedule, also late ones; pulls a day as a whole once it is complete', async () => {
    const own = await startBesideLitellm({
      LITELLM_URL: world.litellm.url,
      LITELLM_KEY,
      LITELLM_PULL_INTERVAL_MS: '0',
    });
    onTestFinished(() => own.end());
    const [before, next] = [addDays(world.day, -1), addDays(world.day, 1)];
    let clock = Date.parse(`${world.day}T12:00:00Z`);
    world.litellm.rows = [
      world.row('yesterday', { startTime: `${before}T01:00:00Z` }),
      world.row('today', { startTime: `${world.day}T11:00:00Z` }),
      world.row('not yet', { startTime: `${world.day}T11:59:30Z` }),
    ];
    const { client } = await own.another({ LITELLM_PULL_INTERVAL_MS: '50' }, () => clock);
    const status = () => client.litellm.status.query({ startDate: before, endDate: next });
    const pulledSince = async (count: number) =>
      (await status()).pulls.filter(({ status }) => status === 'COMPLETED').length > count;
    await expect.poll(() => pulledSince(1)).toBe(true);
    const counted = async () => (await own.counted(before, next)).requests;
    expect(await counted()).toBe('2');
    // Later than the overlap of two pulls: only the pull of the whole day finds it.
    world.litellm.rows.push(world.row('late', { startTime: `${world.day}T09:00:00Z` }));
    clock = Date.parse(`${next}T03:00:00Z`);
    await expect.poll(counted).toBe('4');
    await expect
      .poll(async () => (await status()).days.map(({ date, seen, differs }) => [date, seen?.requests, differs]))
      .toEqual([
        [before, '1', true],
        [world.day, '3', true],
      ]);
  });

  test('rejects a range in the future, in the wrong order or too long', async () => {
    const today = dayOf(Date.now());
    await expect(world.pull(addDays(today, 2))).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
    await expect(world.pull(world.day, addDays(world.day, -1))).rejects.toMatchObject({
      data: { code: 'INVALID_DATE_ORDER' },
    });
    await expect(world.pull(addDays(world.day, -500), world.day)).rejects.toMatchObject({
      data: { code: 'DATE_RANGE_TOO_LARGE' },
    });
  });
});
