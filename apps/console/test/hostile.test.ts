import { connect } from 'node:net';
import { dayOf, ERRORS } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import fc from 'fast-check';
import { Agent, request } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ADMIN_KEY, type Stack, startStack } from './start.ts';

/** Runs of the property; `FC_RUNS` sets more. */
const RUNS = Number(process.env.FC_RUNS ?? 300);

let stack: Stack;
let session: string;

beforeAll(async () => {
  stack = await startStack({ serviceKey: '' });
  const { key } = await createIngestClient({ url: stack.url, key: ADMIN_KEY }).keys.create.mutate({
    name: 'hostile',
    role: 'viewer',
  });
  const answer = await request(`${stack.url}/session`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', origin: stack.url },
    body: JSON.stringify({ key }),
  });
  await answer.body.dump();
  session = /^tally_session=([\w-]+)/.exec(String(answer.headers['set-cookie']))![1]!;
});
afterAll(() => stack.stop());

type Answer = { status: number; head: string; body: string };

/** Sends raw bytes, and reads until the server closes the connection. */
async function exchange(bytes: string): Promise<Answer> {
  const socket = connect(Number(new URL(stack.url).port), '127.0.0.1');
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1');
  });
  // A refusal may reset the connection during the sending.
  socket.on('error', () => {});
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.write(bytes, 'latin1');
  await closed;
  const [head = '', ...rest] = text.replace(/^HTTP\/1\.1 100 .*\r\n\r\n/, '').split('\r\n\r\n');
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1] ?? 0), head, body: rest.join('\r\n\r\n') };
}

type Message = { method: string; path: string; headers: readonly (readonly [string, string])[]; body: string };

function write({ method, path, headers, body }: Message): string {
  const length = body === '' ? [] : [['content-length', String(Buffer.byteLength(body, 'latin1'))] as const];
  const lines = [...headers, ...length, ['connection', 'close'] as const].map(([name, value]) => `${name}: ${value}`);
  return `${[`${method} ${path} HTTP/1.1`, ...lines].join('\r\n')}\r\n\r\n${body}`;
}

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'PROPFIND', 'get', 'CONNECT'];
const today = dayOf(Date.now());
const PATHS = [
  ...[
    '/',
    '/app/overview',
    '/app/../../etc/passwd',
    '/assets/../index.html',
    '/assets/%2e%2e/index.html',
    '/index.html.br',
  ],
  ...['/session', '/session/', '/SESSION', '/session?key=x', '/livez', '/readyz', '/metrics', '/openapi.json', '/docs'],
  ...[
    '/trpc',
    '/trpc/',
    '/trpc/usage.current',
    '/trpc/usage.current/',
    '/trpc/%75sage.current',
    '/trpc/usage.current%00',
  ],
  ...[
    '/trpc/__proto__',
    '/trpc/constructor.prototype',
    '/trpc/%',
    '/trpc/%ff',
    '/trpc/..%2f..%2flivez',
    '/trpc/a/../b',
  ],
  ...['/trpc/usage.current?batch=1', '/trpc/usage.current?batch=1&batch=2', '/trpc/usage.current,jobs.log?batch=1'],
  ...['/trpc/usage.current,jobs.log', '/trpc/usage.current,,jobs.log?batch=1', '/trpc/,?batch=1'],
  `/trpc/usage.current,jobs.log?batch=1&input=${encodeURIComponent('{"0":{"merchantId":"acme"},"1":{}}')}`,
  `/trpc/usage.current,jobs.log?batch=1&input=${encodeURIComponent('{"__proto__":{},"0":null,"7":1}')}`,
  '/trpc/usage.current,jobs.log?batch=1&input=%7B',
  '/trpc/usage.current,jobs.log?batch=1&input=%ff',
  `/trpc/${'analytics.summary,jobs.log,'.repeat(300)}usage.current?batch=1`,
  `/trpc/realtime.watch,usage.current?batch=1`,
  `/export/usage.csv?startDate=${today}&endDate=${today}`,
  ...['/export/usage.csv', '/export/usage.', '/export/', '/export/%2e%2e/livez', '/sources/x', '/v1/traces', '/api/'],
  ...[
    '//evil.example/',
    '/\\evil.example/',
    'http://evil.example/trpc/usage.current',
    '*',
    '/%',
    '/?',
    '/;/',
    '/a%0d%0ab',
  ],
  `/${'a'.repeat(12_000)}`,
  `/trpc/${'a'.repeat(12_000)}`,
  `/export/usage.csv?userIds=${'%F0%9F%92%A5'.repeat(900)}`,
];
const BODIES = [
  ...[
    '',
    '{',
    '[]',
    'null',
    '{"key":"x"}',
    '{"key":""}',
    '{"key":["x"]}',
    `{"key":"${'x'.repeat(600)}"}`,
    '\xff\xfe\x00',
  ],
  ...['{"0":{"merchantId":"acme"},"1":{}}', '{"__proto__":{"0":1},"0":null}', '{"0":{"merchantId":"\\ud800"}}'],
  `{"0":${'['.repeat(200)}${']'.repeat(200)}}`,
  `${' '.repeat(5_000)}{}`,
];
const VALUES = {
  host: ['console', '127.0.0.1', '', 'a b', '[::1', 'evil.example:80', `${'h'.repeat(300)}.example`],
  cookie: [
    'SESSION',
    'tally_session=',
    'tally_session=made-up',
    'tally_session=a; tally_session=b',
    ';;=;',
    '\xff',
    'a'.repeat(5_000),
  ],
  origin: ['http://console', 'null', 'https://evil.example', 'http://console.evil.example', '', 'http://[', 'console'],
  'sec-fetch-site': ['same-origin', 'same-site', 'cross-site', 'none', '', 'SAME-ORIGIN', 'same-origin, cross-site'],
  authorization: [
    `Bearer ${ADMIN_KEY}`,
    'Bearer',
    'Bearer  ',
    'Basic YTpi',
    'Bearer \xff',
    `Bearer ${'k'.repeat(600)}`,
    'bearer x',
  ],
  'x-api-key': [ADMIN_KEY, '', 'made-up'],
  'content-type': ['application/json', 'text/plain', 'multipart/form-data', '', 'application/json; charset=utf-7'],
  'content-encoding': ['gzip', 'br', 'identity', 'gzip, gzip', 'x'],
  'accept-encoding': ['gzip', 'br;q=0', '*', 'gzip;q=,', ''],
  'trpc-accept': ['application/jsonl', 'x'],
  accept: ['text/event-stream', '*/*', ''],
  'x-forwarded-for': ['1.2.3.4', 'x', ''],
  'x-forwarded-proto': ['https', 'x'],
  'x-request-id': ['mine', 'a b', 'x'.repeat(100), ''],
  connection: ['host', 'authorization, cookie', 'keep-alive'],
  expect: ['100-continue', 'x'],
  upgrade: ['websocket', 'h2c'],
  te: ['trailers', 'x'],
  range: ['bytes=0-1', 'bytes=9-1'],
  'if-none-match': ['*', '"x"'],
} as const;

const header = fc
  .constantFrom(...(Object.keys(VALUES) as (keyof typeof VALUES)[]).filter((name) => name !== 'host'))
  .chain((name) => fc.constantFrom(...VALUES[name]).map((value) => [name, value] as const));
const message = fc.record({
  method: fc.constantFrom(...METHODS),
  path: fc.constantFrom(...PATHS),
  host: fc.constantFrom(...VALUES.host),
  headers: fc.array(header, { maxLength: 6 }),
  body: fc.constantFrom(...BODIES),
});

/** Fails unless an answer is one of ours: no server error, and no error without a code. */
function expectAnswered({ status, head, body }: Answer, { method, path, headers }: Message): void {
  const shown = `${method} ${path.slice(0, 80)} ${JSON.stringify(headers).slice(0, 300)}: ${head.slice(0, 60)} ${body.slice(0, 200)}`;
  // 0: the connection was closed without an answer, as Node does with CONNECT.
  if (status === 0) expect(method, shown).toBe('CONNECT');
  // All services run, so none may be reported as unavailable.
  else expect(status, shown).toBeLessThan(500);
  if (status < 400 || method === 'HEAD' || !/content-type: application\/json/i.test(head)) return;
  // OTLP has the status of gRPC, a number, in place of our code.
  if (path.startsWith('/v1/') && /"code":\d/.test(body)) return;
  const codes = [...body.matchAll(/"code":"([A-Z_]+)"/g)].map(([, code]) => code!);
  expect(codes.length, shown).toBeGreaterThan(0);
  for (const code of codes) expect(Object.keys(ERRORS), shown).toContain(code);
}

test('answers any input or refuses it with one of our codes, and the server continues', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(message, { minLength: 10, maxLength: 10 }), async (messages) => {
      await Promise.all(
        messages.map(async ({ host, ...each }) => {
          const headers = [['host', host] as const, ...each.headers].map(
            ([name, value]) => [name, value === 'SESSION' ? `tally_session=${session}` : value] as const,
          );
          const sent = { ...each, headers };
          expectAnswered(await exchange(write(sent)), sent);
        }),
      );
    }),
    { numRuns: Math.ceil(RUNS / 10) },
  );
  expect((await exchange(write({ method: 'GET', path: '/livez', headers: [['host', 'x']], body: '' }))).status).toBe(
    200,
  );
});

describe('which host is meant', () => {
  const get = (path: string, hosts: readonly string[], more: Message['headers'] = []) =>
    exchange(
      write({ method: 'GET', path, headers: [...hosts.map((host) => ['host', host] as const), ...more], body: '' }),
    );

  test.each(['/', '/app/overview', '/trpc/usage.current', '/session', '/livez', '/export/usage.csv'])(
    'must be said once: two Host headers at %s are refused',
    async (path) => {
      const { status, body } = await get(path, ['console', 'evil.example']);
      expect([status, JSON.parse(body).error.data.code]).toEqual([400, 'INVALID_INPUT']);
      expect((await get(path, ['console', 'console'])).status).toBe(400);
    },
  );

  test('must be said at all and be readable, and a target may name no other', async () => {
    expect((await get('/livez', [])).status).toBe(400);
    for (const host of ['[::1', 'a b', 'a/b', 'me@console', 'console:x', '\xff%'])
      expect([host, (await get('/trpc/usage.current', [host])).status]).toEqual([host, 400]);
    expect((await get('http://evil.example/livez', ['console'])).status).toBe(404);
  });

  test('a session is taken from the host whose page sends it only', async () => {
    const cookie = ['cookie', `tally_session=${session}`] as const;
    const path = '/trpc/sessions.current';
    const statuses = [
      await get(path, ['console'], [cookie, ['origin', 'http://console']]),
      await get(path, ['console'], [cookie, ['origin', 'http://evil.example']]),
      await get(path, ['console'], [cookie, ['sec-fetch-site', 'cross-site']]),
      await get(path, ['evil.example'], [cookie, ['origin', 'http://console']]),
      // Headers named as connection headers are not forwarded, so the session is not, either.
      await get(path, ['console'], [cookie, ['origin', 'http://console'], ['connection', 'cookie, host']]),
    ].map(({ status }) => status);
    expect(statuses).toEqual([200, 401, 401, 401, 401]);
  });
});

test('requests smuggled by two lengths are refused', async () => {
  const smuggled = (headers: Message['headers']) =>
    exchange(write({ method: 'POST', path: '/session', headers: [['host', 'x'], ...headers], body: '0\r\n\r\n' }));
  expect((await smuggled([['transfer-encoding', 'chunked']])).status).toBe(400);
  expect((await smuggled([['content-length', '3']])).status).toBe(400);
  expect((await smuggled([['transfer-encoding', 'gzip']])).status).toBe(400);
});

test('a console with the admin key derives the service key: a flood from one address locks out no other', async () => {
  const from = (localAddress: string) => new Agent({ localAddress });
  let keys = 0;
  const [one, other] = [from('127.0.0.2'), from('127.0.0.3')];
  const ask = async (dispatcher: Agent, url: string) => {
    const headers = { authorization: `Bearer made-up-${keys++}`, 'content-type': 'application/json' };
    const answer = await request(`${url}/trpc/usage.current`, { method: 'POST', headers, body: '{}', dispatcher });
    await answer.body.dump();
    return answer.statusCode;
  };
  try {
    const floodUntilRefused = async (url: string) => {
      for (let sent = 0; sent < 1_000; sent++) if ((await ask(one, url)) === 429) return true;
      return false;
    };
    expect(await floodUntilRefused(stack.url)).toBe(true);
    expect(await ask(other, stack.url)).toBe(401);
    // Addresses from a console with another key are ignored, so all its clients count as one.
    const stranger = await stack.addConsole({ TALLY_SERVICE_KEY: 'the-key-of-another-platform' });
    expect(await floodUntilRefused(stranger)).toBe(true);
    expect(await ask(other, stranger)).toBe(429);
  } finally {
    await Promise.all([one.close(), other.close()]);
  }
});
