import { gzipSync } from 'node:zlib';
import { CloudEvent, emitterFor, httpTransport, Mode } from 'cloudevents';
import { describe, expect, test } from 'vitest';
import { clientsWorld } from '../../test/clients-world.ts';

const world = clientsWorld();
const path = '/api/v1/events';

const headers = (key = world.adminKey) => ({ authorization: `Bearer ${key}` });
const eventOf = (subject: string, id: string, data: unknown, more: object = {}) =>
  new CloudEvent({ id, source: '/app', type: 'prompt', subject, data, ...more });

async function post(body: string | Buffer, more: Record<string, string> = {}) {
  const type = { 'content-type': 'application/cloudevents-batch+json' };
  const init = { method: 'POST', headers: { ...headers(), ...type, ...more }, body: body as string };
  const response = await world.app.request(path, init);
  const text = await response.text();
  return { status: response.status, type: response.headers.get('content-type'), body: text && JSON.parse(text) };
}

test.each([
  ['binary', Mode.BINARY],
  ['structured', Mode.STRUCTURED],
] as const)('the CloudEvents SDK sends an event (%s), and a repeat counts once', async (merchantId, mode) => {
  const emit = emitterFor(httpTransport(`${world.url}${path}`), { mode });
  const data = { tokens: 5, inputTokens: 7, model: 'gpt-4o', provider: 'openai', user: 'ada@example.com', ok: true };
  const event = eventOf(merchantId, 'e1', data);
  await emit(event, { headers: headers() });
  await emit(event, { headers: headers() });
  expect(await world.totalsOf(merchantId)).toEqual({ requests: '1', tokens: '5', input_tokens: '7' });
  const { rows } = await world.admin.usage.recent.query({ merchantId });
  expect(rows).toMatchObject([
    {
      id: 'ce:/app e1',
      ...{ model: 'gpt-4o', provider: 'openai', userId: 'ada@example.com', time: event.time },
      properties: { event_type: 'prompt', event_source: '/app', tokens: '5', inputTokens: '7', ok: true },
    },
  ]);
});

test('subjects that are not ASCII arrive as they are, encoded in headers or not', async () => {
  const emit = emitterFor(httpTransport(`${world.url}${path}`), { mode: Mode.BINARY });
  await emit(eventOf('Zoë % "q"', 'raw', { tokens: 1 }), { headers: headers() });
  const encoded = { 'ce-specversion': '1.0', 'ce-id': 'encoded', 'ce-source': '/app', 'ce-type': 'prompt' };
  const more = { ...encoded, 'ce-subject': 'Zo%C3%AB %25 %22q%22', 'content-type': 'application/json' };
  expect(await post('{"tokens":2}', more)).toMatchObject({ status: 204 });
  expect(await world.totalsOf('Zoë % "q"')).toEqual({ requests: '2', tokens: '3' });
});

const plain = (subject: string, id: string, data: unknown, more: object = {}) => ({
  ...{ specversion: '1.0', id, source: '/app', type: 'prompt', subject, data },
  ...more,
});

describe('a batch', () => {
  test('is taken plain and compressed, with numbers that a double cannot hold', async () => {
    const batch = `[${JSON.stringify(plain('big', '1', {}))},{"specversion":"1.0","id":"2","source":"/app","type":"t",
      "subject":"big","data":{"tokens":999999999999999,"nested":{"deep":1e3},"text":"12","total_tokens":9}}]`;
    expect(await post(batch)).toMatchObject({ status: 204, body: '' });
    expect(await post(gzipSync(batch), { 'content-encoding': 'gzip' })).toMatchObject({ status: 204 });
    expect(await post('[]')).toMatchObject({ status: 204 });
    const more = { tokens: '999999999999999', nested_deep: '1000', text: '12' };
    expect(await world.totalsOf('big')).toEqual({ requests: '2', ...more });
  });

  test('has each bad event rejected by itself, and refuses what has no good one', async () => {
    const bad = [
      plain('b', 'fraction', { duration: 12.5 }),
      plain('b', 'negative', { tokens: -1 }),
      plain('b', '', { tokens: 1 }),
      plain('b', 'null', { tokens: 1 }),
      plain('b', 'time', { tokens: 1 }, { time: 'yesterday' }),
      plain('b', 'version', { tokens: 1 }, { specversion: '0.3' }),
      plain('b', 'twice', { inputTokens: 1, input_tokens: 2 }),
      plain('b', 'name', { '%': 1 }),
      plain('', 'nobody', { tokens: 1 }),
      7,
    ];
    const { status, body } = await post(JSON.stringify([plain('b', 'good', { tokens: 1 }), ...bad]));
    expect([status, body.accepted]).toEqual([200, 1]);
    expect(body.rejected.map(({ index, code }: { index: number; code: string }) => [index, code])).toEqual(
      bad.map((_, index) => [index + 1, 'INVALID_ENTRY']),
    );
    expect(await post(JSON.stringify(bad))).toMatchObject({
      status: 400,
      type: 'application/problem+json',
      body: { title: 'INVALID_INPUT', status: 400, detail: expect.stringContaining('duration') },
    });
    const own = await post(JSON.stringify(bad[0]), { 'content-type': 'application/cloudevents+json' });
    expect(own).toMatchObject({ status: 400, body: { code: 'INVALID_ENTRY' } });
    expect(await world.totalsOf('b')).toEqual({ requests: '1', tokens: '1' });
  });
});

test('a fraction is counted where a meter takes it from its property', async () => {
  const meter = { key: 'gpu_hours', aggregation: 'SUM', valueProperty: 'hours', scale: 9 } as const;
  await world.admin.meters.create.mutate(meter);
  world.clock.now += 5_000;
  const batch = [
    plain('gpu', '1', { hours: 0.25 }),
    plain('gpu', '2', { hours: '1.5' }),
    plain('gpu', '3', { other: 0.5 }),
  ];
  expect(await post(JSON.stringify(batch))).toMatchObject({ status: 200, body: { accepted: 2 } });
  const { rows } = await world.admin.usage.recent.query({ merchantId: 'gpu' });
  expect(rows.map(({ properties }) => properties?.hours).sort()).toEqual(['0.25', '1.5']);
});

test('the same id with other data is a conflict', async () => {
  const batch = [plain('c', '1', { tokens: 1 }), plain('c', '1', { tokens: 2 }), plain('c', '1', { tokens: 1 })];
  expect(await post(JSON.stringify(batch))).toMatchObject({
    status: 200,
    body: { accepted: 1, duplicates: 1, rejected: [{ index: 1, id: 'ce:/app 1', code: 'ID_CONFLICT' }] },
  });
});

test('nothing is lost and nothing counts twice when the store or the answer fails', async () => {
  const body = JSON.stringify([plain('f', '1', { tokens: 1 }), plain('f', '2', { tokens: 2 })]);
  world.failing.before = 1;
  expect(await post(body)).toMatchObject({ status: 503, body: { code: 'UNAVAILABLE' } });
  world.failing.after = 2;
  await post(body);
  expect(await post(body)).toMatchObject({ status: 204 });
  expect(await world.totalsOf('f')).toEqual({ requests: '2', tokens: '3' });
});

test('keys may do what their role and their merchant allow', async () => {
  const one = JSON.stringify(plain('own', '1', { tokens: 1 }));
  const other = JSON.stringify(plain('other', '1', { tokens: 1 }));
  const nobody = JSON.stringify(plain('', '2', { tokens: 1 }));
  const bound = headers(await world.keyOf('producer', 'own'));
  expect(await post(one, bound)).toMatchObject({ status: 204 });
  expect(await post(nobody, bound)).toMatchObject({ status: 204 });
  expect(await post(other, bound)).toMatchObject({ status: 403, body: { code: 'MERCHANT_FORBIDDEN' } });
  expect(await post(one, headers(await world.keyOf('viewer')))).toMatchObject({ status: 403 });
  expect(await post(one, headers('unknown'))).toMatchObject({ status: 401 });
  expect(await world.totalsOf('own')).toEqual({ requests: '2', tokens: '2' });
  const init = {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': await world.keyOf('member') },
  };
  expect(await world.app.request(path, { ...init, body: one })).toMatchObject({ status: 204 });
});

test('what is no amount is rejected, -0 is 0, and any rejected text can be listed', async () => {
  const textOf = (id: string, amount: string, time: unknown = new Date().toISOString()) =>
    `{"specversion":"1.0","id":"${id}","source":"/app","type":"prompt","subject":"odd","time":${JSON.stringify(time)},"data":{"tokens":${amount}}}`;
  const events = [
    ...[textOf('nan', 'NaN'), textOf('infinite', '-Infinity'), textOf('zero', '-0.0'), textOf('one', '1e0')],
    textOf('nul', '1', 'no\u0000time'),
  ];
  const { body } = await post(`[${events.join()}]`);
  expect(body).toMatchObject({ accepted: 2, rejected: [{ index: 0 }, { index: 1 }, { index: 4 }] });
  expect(await world.totalsOf('odd')).toEqual({ requests: '2', tokens: '1' });
  const { rows } = await world.admin.sources.rejections.query({ source: 'cloudevents' });
  expect(rows[0]).toMatchObject({ eventId: 'ce:/app nul', message: expect.stringContaining('no time') });
});

test('other types of bodies, and too large ones, are refused', async () => {
  expect(await post('a=b', { 'content-type': 'application/x-www-form-urlencoded' })).toMatchObject({ status: 415 });
  expect(await post('{', {})).toMatchObject({ status: 400, body: { code: 'INVALID_JSON' } });
  expect(await post('[]', { 'content-encoding': 'br' })).toMatchObject({ status: 415 });
  const bomb = gzipSync(Buffer.alloc(9 * 2 ** 20, ' '));
  expect(await post(bomb, { 'content-encoding': 'gzip' })).toMatchObject({ status: 413 });
});
