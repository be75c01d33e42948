import { addDays, dayOf } from '@tally/contracts';
import { describe, expect, test } from 'vitest';
import { KEY, LitellmWorld, LOGS, payloadOf } from '../../../test/litellm-world.ts';

const world = new LitellmWorld();

describe('daily sums', () => {
  const sums = (model: string, more: object = {}) => ({
    date: world.day,
    model,
    api_key: 'k'.repeat(64),
    spend: '0.30000000000000004',
    prompt_tokens: 100,
    completion_tokens: 50,
    api_requests: 5,
    failed_requests: 1,
    ...more,
  });
  const told = async (client = world.running.client) =>
    (await client.litellm.status.query({ startDate: world.day, endDate: world.day })).days[0];

  test('adds up all pages of a day, and compares them with its calls', async () => {
    world.litellm.rows = [world.row('counted')];
    world.litellm.daily = [
      sums('gpt-4o', {
        spend: '0.00012',
        api_requests: 1,
        failed_requests: 0,
        prompt_tokens: 20,
        completion_tokens: 10,
      }),
    ];
    await world.pull();
    expect(await told()).toMatchObject({ toldBy: 'calls', differs: false, error: null });
    world.litellm.dailyPageSize = 1;
    world.litellm.daily.push(sums('claude'));
    await world.pull();
    expect(await told()).toMatchObject({
      differs: true,
      seen: { requests: '1', cost: '0.00012' },
      reported: { requests: '6', failedRequests: '1', promptTokens: '120', cost: '0.30012' },
    });
    expect(await world.totals()).toMatchObject({ requests: '1' });
  });

  test('counts the calls where the sums cannot be read, and reports why', async () => {
    world.litellm.rows = [world.row('counted')];
    world.litellm.before = (path) =>
      path === '/user/daily/activity' ? { status: 403, body: '{"detail":"Only admins"}' } : undefined;
    expect(await world.pull()).toMatchObject({ status: 'COMPLETED', accepted: 1 });
    expect((await told())?.error).toContain('403');
  });

  test('with fill counts the sums of a day without calls once, and then rejects calls of that day', async () => {
    const { client, app } = await world.running.another({ LITELLM_DAILY: 'fill' });
    const range = { startDate: world.day, endDate: world.day };
    world.litellm.dailyPageSize = 1;
    world.litellm.daily = [
      sums('gpt-4o'),
      sums('claude', { api_requests: 1, failed_requests: 1 }),
      sums('gpt-4o', { api_key: 'other' }),
    ];
    await client.litellm.pull.mutate(range);
    const expected = { requests: '11', failedRequests: '3', promptTokens: '300', cost: '0.9' };
    expect(await world.totals()).toMatchObject(expected);
    expect(await told(client)).toMatchObject({ toldBy: 'sums', reported: { requests: '11' }, error: null });
    await client.litellm.pull.mutate(range);
    world.litellm.rows = [world.row('late')];
    expect(await client.litellm.pull.mutate(range)).toMatchObject({
      accepted: 0,
      rejected: 1,
      rejections: [{ id: 'late', code: 'DAY_TOLD_BY_SUMS' }],
    });
    const pushed = await app.request(LOGS, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify(payloadOf(world.row('late'))),
    });
    expect(await pushed.json()).toMatchObject({ accepted: 0, rejected: [{ code: 'DAY_TOLD_BY_SUMS' }] });
    expect(await world.totals()).toMatchObject(expected);
  });

  test('with fill does not count the sums of a day of which calls were pushed', async () => {
    world.day = addDays(dayOf(Date.now()), -2);
    const { client } = await world.running.another({ LITELLM_DAILY: 'fill' });
    await world.push(JSON.stringify(payloadOf(world.row('pushed'))));
    world.litellm.daily = [sums('gpt-4o')];
    await client.litellm.pull.mutate({ startDate: world.day, endDate: world.day });
    expect(await told(client)).toMatchObject({ toldBy: 'calls', differs: true });
    expect(await world.totals()).toMatchObject({ requests: '1' });
    world.day = addDays(dayOf(Date.now()), -120);
  });
});
