import { gzipSync } from 'node:zlib';
import { LITELLM_GUARDRAIL_PATH } from '@tally/contracts';
import { describe, expect, test } from 'vitest';
import { EVENTS, eventOf, KEY, LitellmWorld, LOGS, payloadOf } from '../../../test/litellm-world.ts';

const world = new LitellmWorld();

describe('the merchant of a call', () => {
  const metadata = { user_api_key_team_id: 'team-1', user_api_key_org_id: 'org-1', user_api_key_alias: 'Ada’s key' };

  test.each([
    ['fixed', 'litellm'],
    ['team', 'team-1'],
    ['organization', 'org-1'],
    ['key_alias', expect.stringMatching(/^Ada-s-key:[0-9a-f]{16}$/)],
  ])('comes from %s, the same for pushed and pulled calls', async (from, merchant) => {
    const { app, client } = await world.running.another({ LITELLM_MERCHANT_FROM: from });
    world.litellm.rows = [world.row(`of-${from}`, { metadata }), world.row(`none-${from}`)];
    await client.litellm.pull.mutate({ startDate: world.day });
    const pushed = await app.request(LOGS, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify(world.litellm.rows.map((each) => payloadOf(each))),
    });
    // Only admins may backfill old days; known calls of such days are repeats or too old, never another event.
    expect(await pushed.json()).toMatchObject({ accepted: 0 });
    const { merchants } = await world.totals();
    expect(merchants).toContainEqual(merchant);
    expect(merchants).toContain('litellm');
  });
});

describe('push', () => {
  test('reads an array, one object and lines, whatever the content type is', async () => {
    const bodies = {
      array: JSON.stringify([payloadOf(world.recent('a1')), null, payloadOf(world.recent('a2'))]),
      single: JSON.stringify(payloadOf(world.recent('s1'))),
      lines: `${JSON.stringify(payloadOf(world.recent('l1')))}\n${JSON.stringify(payloadOf(world.recent('l2')))}`,
    };
    const answers = await Promise.all(Object.values(bodies).map((body) => world.push(body)));
    expect(answers.map(({ status, text }) => [status, JSON.parse(text)])).toEqual([
      [200, { accepted: 2, duplicates: 0, empty: 1, rejected: [] }],
      [200, { accepted: 1, duplicates: 0, empty: 0, rejected: [] }],
      [200, { accepted: 2, duplicates: 0, empty: 0, rejected: [] }],
    ]);
  });

  test('reads gzip, and stores the end user and tags as properties, which meters can have as dimensions', async () => {
    const more = { end_user: 'eve', request_tags: ['env: prod', 'fast', 'User-Agent: curl', 'env: prod', null] };
    const asText = { request_tags: '["fast","env:test"]' };
    const payloads = [payloadOf(world.recent('tag-1'), more), payloadOf(world.recent('tag-2'), asText)];
    const answer = await world.running.app.request(LOGS, {
      method: 'POST',
      headers: { authorization: `Bearer ${KEY}`, 'content-encoding': 'gzip' },
      body: gzipSync(JSON.stringify(payloads)),
    });
    expect(await answer.json()).toMatchObject({ accepted: 2, rejected: [] });
    const { rows } = await world.running.client.usage.recent.query({ merchantId: 'litellm', limit: 100 });
    const propertiesOf = (id: string) => rows.find((row) => row.id === id)?.properties;
    expect([propertiesOf('tag-1'), propertiesOf('tag-2')]).toEqual([
      expect.objectContaining({ end_user: 'eve', tags: 'env: prod,fast', tag_env: 'prod' }),
      expect.objectContaining({ tags: 'env:test,fast', tag_env: 'test' }),
    ]);
  });

  test('rejects CloudEvents of types that are none of LiteLLM', async () => {
    const event = eventOf(`other-${Date.now()}`, new Date().toISOString());
    const { status, text } = await world.push(JSON.stringify({ ...event, type: 'prompt', data: { tokens: 5 } }), {
      path: EVENTS,
    });
    expect(status).toBe(400);
    expect(text).toContain('LITELLM_EVENT_TYPE');
  });

  test('rejects a bad item by itself and names it', async () => {
    const good = JSON.stringify(payloadOf(world.recent('good')));
    const bad = [
      '{"id":"no start"}',
      '7',
      '{"id":"negative","startTime":1763781050.5,"response_cost":-1}',
      '{"id":"half","startTime":1763781050.5,"prompt_tokens":1.5}',
      '{"startTime":1763781050.5}',
      '{"id":"v1","startTime":"2026-11-22 03:10:50.099123","usage":"{\'prompt_tokens\': 3}"}',
      '{"id":"huge","startTime":1763781050.5,"response_cost":1e300}',
    ];
    const { status, text } = await world.push(`[${[good, ...bad].join(',')}]`);
    expect(status).toBe(200);
    const answer = JSON.parse(text);
    expect(answer.accepted).toBe(1);
    expect(answer.rejected.map(({ index, code }: { index: number; code: string }) => [index, code])).toEqual(
      bad.map((_, index) => [index + 1, 'INVALID_ENTRY']),
    );
    const lines = await world.push(`${JSON.stringify(payloadOf(world.recent('line')))}\n{"id":\n`);
    expect(JSON.parse(lines.text)).toMatchObject({ accepted: 1, rejected: [{ index: 1, code: 'INVALID_ENTRY' }] });
  });

  test('takes NaN, as Python writes it, and null for an unknown cost, and absent tokens for unknown tokens', async () => {
    const unknown = { prompt_tokens: null, completion_tokens: null, total_tokens: null, response_cost: null };
    const items = [
      payloadOf(world.recent('cost-nan')),
      payloadOf(world.recent('cost-null'), { response_cost: null }),
      payloadOf(world.recent('cost-unpriced'), { response_cost: 0, response_cost_failure_debug_info: { error: 'x' } }),
      payloadOf(world.recent('cost-0'), { response_cost: 0 }),
      payloadOf(world.recent('nothing'), unknown),
      payloadOf(world.recent('total'), { ...unknown, total_tokens: 15 }),
      payloadOf(world.recent('total-of-zeros'), { prompt_tokens: 0, completion_tokens: 0, total_tokens: 15 }),
    ];
    const body = JSON.stringify(items).replace(/"response_cost":[^,]+/, '"response_cost":NaN');
    expect((await world.push(body)).json()).toMatchObject({ accepted: items.length, rejected: [] });
    const { rows } = await world.running.client.usage.recent.query({ merchantId: 'litellm', limit: 100 });
    const metricsOf = (id: string) => {
      const { requests, ...metrics } = rows.find((row) => row.id === id)!.metrics;
      expect(requests).toBe('1');
      return metrics;
    };
    const tokens = { prompt_tokens: '20', completion_tokens: '10' };
    expect(metricsOf('cost-nan')).not.toHaveProperty('cost');
    for (const id of ['cost-nan', 'cost-null', 'cost-unpriced']) expect(metricsOf(id), id).toEqual(tokens);
    for (const id of ['nothing', 'total']) expect(metricsOf(id), id).toEqual({});
    expect(rows.find(({ id }) => id === 'total')!.properties).toMatchObject({ total_tokens: '15' });
    expect(metricsOf('total-of-zeros')).toEqual({ cost: '0.00012' });
  });

  test('rejects a call with an amount beyond all limits by itself, and counts the others', async () => {
    const calls = [
      payloadOf(world.recent('dear'), { response_cost: 1e15 }),
      payloadOf(world.recent('long'), { prompt_tokens: 1e30 }),
      payloadOf(world.recent('usual')),
    ];
    const rejected = [0, 1].map((index) => ({ index, code: 'INVALID_ENTRY' }));
    expect((await world.push(JSON.stringify(calls))).json()).toMatchObject({ accepted: 1, rejected });
  });

  test('rejects callers who may not record, and bodies that are unreadable or too large', async () => {
    expect(await world.push('[]', { key: 'unknown-key' })).toMatchObject({ status: 401 });
    const viewer = await world.running.client.keys.create.mutate({ name: 'viewer', role: 'viewer' });
    expect(await world.push('[]', { key: viewer.key })).toMatchObject({ status: 403 });
    expect(await world.push('')).toMatchObject({ status: 400 });
    expect(await world.push('[{]')).toMatchObject({ status: 400 });
    expect(await world.push(`[${'null,'.repeat(10_001)}null]`)).toMatchObject({ status: 400 });
    expect(await world.push(`["${'x'.repeat(1_000_001)}"]`)).toMatchObject({ status: 413 });
    expect(await world.push('[]')).toMatchObject({ status: 200 });
  });

  test('records only calls of the merchant that a key is bound to', async () => {
    const { app } = await world.running.another({ LITELLM_MERCHANT_FROM: 'team' });
    const { key } = await world.running.client.keys.create.mutate({
      name: 'p',
      role: 'producer',
      merchantId: 'team-a',
    });
    const send = (items: object[]) =>
      app.request(LOGS, { method: 'POST', headers: { authorization: `Bearer ${key}` }, body: JSON.stringify(items) });
    const of = (id: string, team: string | null) =>
      payloadOf(world.recent(id, { metadata: { user_api_key_team_id: team } }));
    const mixed = await send([of('own', 'team-a'), of('other', 'team-b'), of('teamless', null)]);
    expect(await mixed.json()).toMatchObject({
      accepted: 1,
      rejected: [{ code: 'MERCHANT_FORBIDDEN' }, { code: 'MERCHANT_FORBIDDEN' }],
    });
    expect((await send([of('other', 'team-b')])).status).toBe(403);
  });

  test('acknowledges nothing while Postgres is unavailable, which knows the calls', async () => {
    const { app } = await world.running.another({ DATABASE_URL: 'postgres://127.0.0.1:9/none' });
    for (const [path, body] of [
      [LOGS, payloadOf(world.recent('lost'))],
      [EVENTS, eventOf('lost', new Date().toISOString())],
    ] as const) {
      const response = await app.request(path, {
        method: 'POST',
        headers: { authorization: `Bearer ${KEY}` },
        body: JSON.stringify(body),
      });
      expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    }
  });

  test('answers an event of the openmeter callback as OpenMeter does', async () => {
    const type = 'application/cloudevents+json';
    const one = eventOf('om-1', new Date().toISOString());
    expect(await world.push(JSON.stringify(one), { path: EVENTS, type })).toMatchObject({ status: 204, text: '' });
    expect(await world.push(JSON.stringify(one), { path: EVENTS, type })).toMatchObject({ status: 204 });
    const bare = JSON.stringify({ ...eventOf('om-2', '2026-11-22T03:10:50.099123+00:00'), data: null, time: null });
    expect(await world.push(bare, { path: EVENTS, type })).toMatchObject({ status: 204 });
    const bad = await world.push(JSON.stringify({ ...one, subject: '' }), { path: EVENTS, type });
    expect([bad.status, bad.header('content-type')]).toEqual([400, 'application/problem+json']);
    expect(JSON.parse(bad.text)).toMatchObject({ status: 400, detail: expect.stringContaining('subject') });
    const batch = await world.push(JSON.stringify([one, { ...one, id: 'om-3' }]), {
      path: EVENTS,
      type: 'application/cloudevents-batch+json',
    });
    expect(batch.status).toBe(204);
  });

  test('counts cached and reasoning tokens beside the sums that include them', async () => {
    const usage_object = {
      prompt_tokens_details: { cached_tokens: 7 },
      completion_tokens_details: { reasoning_tokens: 3 },
      cache_creation_input_tokens: 2,
    };
    const row = world.recent('parts', { metadata: { usage_object } });
    await world.push(JSON.stringify([payloadOf(row)]));
    const { rows } = await world.running.client.usage.recent.query({ merchantId: 'litellm', limit: 100 });
    expect(rows.find(({ id }) => id === 'parts')).toMatchObject({
      date: row.startTime.slice(0, 10),
      model: 'openai/gpt-4o',
      provider: 'openai',
      userId: 'ada',
      apiKey: 'a'.repeat(64),
      metrics: { prompt_tokens: '20', cached_tokens: '7', cache_write_tokens: '2', reasoning_tokens: '3' },
    });
  });
});

describe('the guardrail', () => {
  const ask = async (question: unknown, key = KEY) => {
    const answer = await world.running.app.request(LITELLM_GUARDRAIL_PATH, {
      method: 'POST',
      headers: { 'x-api-key': key, 'content-type': 'application/json' },
      body: typeof question === 'string' ? question : JSON.stringify(question),
    });
    return { status: answer.status, body: (await answer.json()) as { action?: string; blocked_reason?: string } };
  };
  const about = (user: string) => ({
    ...{ input_type: 'request', model: 'gpt-4o', texts: ['Hello'], litellm_call_id: 'c1', images: null },
    request_data: { user_api_key_hash: 'k1', user_api_key_user_id: user, user_api_key_team_id: null },
  });

  test('blocks calls whose hard budget is used up, before they are made', async () => {
    const { client } = world.running;
    const budget = { measure: 'requests', limit: '1', period: 'total', enforcement: 'hard' } as const;
    const { id } = await client.budgets.create.mutate({ ...budget, scope: { merchantId: 'litellm', userId: 'spent' } });
    expect((await ask(about('spent'))).body).toEqual({ action: 'NONE' });
    await world.push(JSON.stringify(payloadOf(world.recent('g1', { user: 'spent' }))));
    await expect.poll(async () => (await ask(about('spent'))).body.action).toBe('BLOCKED');
    expect((await ask(about('spent'))).body.blocked_reason).toBe(`Budget ${id} is used up.`);
    expect((await ask({ ...about('spent'), input_type: 'response' })).body).toEqual({ action: 'NONE' });
    expect((await ask(about('other'))).body).toEqual({ action: 'NONE' });
    await client.budgets.remove.mutate({ id });
    expect((await ask(about('spent'))).body).toEqual({ action: 'NONE' });
  });

  test('rejects bodies that are no question, and keys that it does not know', async () => {
    expect((await ask('{')).status).toBe(400);
    expect((await ask([])).status).toBe(400);
    expect((await ask(about('ada'), 'nobody')).status).toBe(401);
  });
});
