import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { gunzipSync, gzipSync } from 'node:zlib';
import { addDays, dayOf, proceduresOf, SERVICES } from '@tally/contracts';
import { createAnalyticsClient, createEngineClient, createIngestClient } from '@tally/contracts/client';
import { VERSION } from '@tally/service';
import { createTRPCClient, httpBatchLink, httpBatchStreamLink, TRPCClientError } from '@trpc/client';
import { request } from 'undici';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { ownerOfPath } from '../src/server/owners.ts';
import { ADMIN_KEY, nextOf, type Stack, startStack } from './start.ts';

const today = dayOf(Date.now());
const range = { startDate: addDays(today, -1), endDate: today };
const key = ADMIN_KEY;
let stack: Stack;

beforeAll(async () => {
  stack = await startStack({
    settings: { MAX_BODY_BYTES: '20000', MAX_FORWARDED_BYTES: '100000', BODY_PROGRESS_MS: '2000' },
  });
  await createIngestClient({ url: stack.url, key }).usage.record.mutate({
    entries: [
      {
        id: 'a',
        merchantId: 'acme',
        userId: 'ada',
        model: 'gpt-4o',
        metrics: { prompt_tokens: '7', cost: '0.000000003' },
      },
      { id: 'b', merchantId: 'globex', metrics: { cost: '12.5' } },
    ],
  });
});
afterAll(() => stack.stop());

// biome-ignore lint/suspicious/noExplicitAny: one client of all services, which no contract types.
const batching = (link: (options: any) => any): any =>
  createTRPCClient({
    links: [link({ url: `${stack.url}/trpc`, headers: { authorization: `Bearer ${key}` }, methodOverride: 'POST' })],
  });
// biome-ignore lint/suspicious/noExplicitAny: whatever a service answers.
const bodyOf = (answer: Response): Promise<any> => answer.json();
const raw = (path: string, init: RequestInit = {}) =>
  fetch(stack.url + path, { ...init, headers: { authorization: `Bearer ${key}`, ...init.headers } });

describe('a client made with the one address', () => {
  test('reaches usage-ingest', async () => {
    const { metrics } = await createIngestClient({ url: stack.url, key }).usage.current.query({ merchantId: 'acme' });
    expect(metrics).toMatchObject({ prompt_tokens: '7', cost: '0.000000003' });
  });

  test('reaches analytics-api', async () => {
    const { totals } = await createAnalyticsClient({ url: stack.url, key }).analytics.breakdown.query({
      ...range,
      by: 'merchant',
    });
    expect(totals.cost).toBe('12.500000003');
  });

  test('reaches metrics-engine, and hears its subscriptions', async () => {
    const engine = createEngineClient({ url: stack.url, key });
    await engine.realtime.gauge.mutate({ name: 'lag', value: '1' });
    const changed = nextOf<{ value?: string | undefined }>(
      (hear) =>
        engine.realtime.watch.subscribe(
          { name: 'lag' },
          { onData: hear, onStarted: () => void engine.realtime.gauge.mutate({ name: 'lag', value: '2.5' }) },
        ),
      ({ value }) => value === '2.5',
    );
    expect(await changed).toMatchObject({ name: 'lag', value: '2.5' });
  });

  test('gets the errors that the services answer', async () => {
    const wrong = createAnalyticsClient({ url: stack.url, key: 'tally_unknown' });
    await expect(wrong.analytics.summary.query(range)).rejects.toMatchObject({ data: { code: 'UNAUTHORIZED' } });
  });
});

describe('a batch that mixes services', () => {
  test('is split, and its answers come in its order', async () => {
    const all = batching(httpBatchLink);
    const answers = await Promise.all([
      all.analytics.summary.query(range),
      all.usage.current.query({ merchantId: 'globex' }),
      all.realtime.list.query({}),
      all.analytics.breakdown.query({ ...range, by: 'model' }),
    ]);
    expect(answers[0].totals.cost).toBe('12.500000003');
    expect(answers[1].metrics.cost).toBe('12.5');
    expect(answers[2].nextCursor).toBeNull();
    expect(answers[3].total).toBe(2);
  });

  test('is answered call by call to a streaming client', async () => {
    const all = batching(httpBatchStreamLink);
    const [summary, current, missing] = await Promise.allSettled([
      all.analytics.summary.query(range),
      all.usage.current.query({ merchantId: 'globex' }),
      all.nothing.here.query(),
    ]);
    expect(summary).toMatchObject({ value: { totals: { cost: '12.500000003' } } });
    expect(current).toMatchObject({ value: { metrics: { cost: '12.5' } } });
    expect(missing).toMatchObject({ reason: { data: { code: 'NOT_FOUND' } } });
  });

  test('works as a GET, and never runs a mutation by one', async () => {
    const input = { 0: range, 1: { merchantId: 'globex' } };
    const query = `batch=1&input=${encodeURIComponent(JSON.stringify(input))}`;
    const answer = await raw(`/trpc/analytics.summary,usage.current?${query}`);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject([{ result: {} }, { result: { data: { metrics: { cost: '12.5' } } } }]);
    const [read, write] = await bodyOf(await raw(`/trpc/analytics.summary,flush.run?${query}`));
    expect(read.result.data.totals.cost).toBe('12.500000003');
    expect(write.error.data.code).toBe('METHOD_NOT_ALLOWED');
  });

  test('gives an unknown procedure its own error', async () => {
    const answer = await raw('/trpc/usage.current,usage.nothing?batch=1', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ 0: { merchantId: 'globex' }, 1: {} }),
    });
    expect(answer.status).toBe(207);
    expect(await answer.json()).toMatchObject([
      { result: {} },
      { error: { data: { code: 'NOT_FOUND', path: 'usage.nothing' } } },
    ]);
  });

  test.each([
    [
      'too many calls',
      `/trpc/${'analytics.summary,usage.current,'.repeat(60)}usage.current?batch=1`,
      '{}',
      400,
      'INVALID_INPUT',
    ],
    [
      'too large a body',
      '/trpc/analytics.summary,usage.current?batch=1',
      `{"0":"${'x'.repeat(30_000)}"}`,
      413,
      'BODY_TOO_LARGE',
    ],
    ['inputs that are no object', '/trpc/analytics.summary,usage.current?batch=1', '[1]', 400, 'INVALID_JSON'],
    ['inputs that are no JSON', '/trpc/analytics.summary,usage.current?batch=1', '{', 400, 'INVALID_JSON'],
  ])('is refused with %s', async (_name, path, body, status, code) => {
    const answer = await raw(path, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
    expect(answer.status).toBe(status);
    expect((await bodyOf(answer)).error.data.code).toBe(code);
  });
});

describe('what is not tRPC', () => {
  test('streams exports as they are', async () => {
    const through = await raw(`/export/usage.csv?startDate=${range.startDate}&endDate=${range.endDate}&by=merchant`);
    const direct = await fetch(
      `${stack.services.analytics.url}/export/usage.csv?startDate=${range.startDate}&endDate=${range.endDate}&by=merchant`,
      { headers: { authorization: `Bearer ${key}` } },
    );
    expect(through.headers.get('content-type')).toBe(direct.headers.get('content-type'));
    expect(await through.text()).toBe(await direct.text());
  });

  test.each(['/api/admin/metrics/custom-definitions', '/openapi.json', '/docs', '/livez', '/readyz', '/metrics'])(
    'answers %s',
    async (path) => {
      expect((await raw(path)).status).toBe(200);
    },
  );

  test('has one document of all services, and passes each REST path on to the service whose contract has it', async () => {
    const { paths } = (await (await raw('/openapi.json')).json()) as { paths: object };
    expect(Object.keys(paths)).toEqual(expect.arrayContaining(['/trpc/usage.record', '/trpc/custom.create']));
    for (const [service, { contract, endpoints }] of Object.entries(SERVICES)) {
      const rest = proceduresOf(contract).flatMap(([, procedure]) => procedure.rest ?? []);
      for (const { path } of [...rest, ...endpoints]) {
        expect(paths).toHaveProperty([path]);
        expect([path, ownerOfPath(path)]).toEqual([path, service]);
      }
    }
  });

  test("passes the client's address on, whatever it claims, and nothing about the connection", async () => {
    const { statusCode, headers } = await request(
      `${stack.url}/trpc/usage.current?input=%7B%22merchantId%22%3A%22acme%22%7D`,
      {
        headers: { authorization: `Bearer ${key}`, 'x-forwarded-for': '6.6.6.6', 'x-request-id': 'mine' },
      },
    );
    expect(statusCode).toBe(200);
    expect(headers['x-request-id']).toBe('mine');
  });

  test('refuses a body that is too large, whether or not its length is given', async () => {
    const body = 'x'.repeat(200_000);
    const headers = { 'content-type': 'application/json' };
    const known = await raw('/api/admin/metrics/calculate', { method: 'POST', headers, body });
    expect(known.status).toBe(413);
    const chunked = await raw('/api/admin/metrics/calculate', {
      method: 'POST',
      headers,
      body: new Blob([body]).stream(),
      duplex: 'half',
    } as RequestInit);
    expect(chunked.status).toBe(413);
  });

  test.each(['with its length', 'chunked', 'gzipped'])(
    'passes on the refusal of a body over the limit of its service, sent %s, every time',
    async (how) => {
      const url = `${await stack.addConsole({})}/trpc/usage.record`;
      const text = JSON.stringify({ entries: [randomBytes(6_500_000).toString('base64')] });
      const bytes = how === 'gzipped' ? gzipSync(text) : Buffer.from(text);
      const headers = {
        authorization: `Bearer ${key}`,
        'content-type': 'application/json',
        ...(how === 'gzipped' && { 'content-encoding': 'gzip' }),
      };
      const answers: unknown[] = [];
      for (let times = 0; times < 20; times++) {
        const body = how === 'chunked' ? new Blob([bytes]).stream() : bytes;
        const answer = await fetch(url, { method: 'POST', headers, body, duplex: 'half' } as RequestInit);
        answers.push([answer.status, (await bodyOf(answer)).error.data.code]);
      }
      expect(answers).toEqual(answers.map(() => [413, 'BODY_TOO_LARGE']));
    },
    390_000,
  );

  test.each([
    ['/trpc/meters.list', 'gzip, br', 'gzip'],
    ['/trpc/meters.list', 'gzip;q=0', undefined],
    ['/trpc/sessions.current', 'gzip', undefined],
  ])('answers %s to a client that accepts %s with encoding %s', async (path, accepted, encoding) => {
    const headers = { authorization: `Bearer ${key}`, 'accept-encoding': accepted };
    const answer = await request(stack.url + path, { headers });
    expect(answer.headers['content-encoding']).toBe(encoding);
    const bytes = Buffer.from(await answer.body.arrayBuffer());
    const text = (encoding ? gunzipSync(bytes) : bytes).toString();
    expect(JSON.parse(text)).toEqual(await bodyOf(await raw(path)));
    if (encoding) expect(bytes.length).toBeLessThan(text.length / 2);
    else expect(answer.headers['content-length']).toBe(String(text.length));
  });

  test('refuses headers without end', async () => {
    const answer = await raw('/livez', { headers: { 'x-long': 'x'.repeat(70_000) } });
    expect(answer.status).toBe(431);
  });

  test('has nothing at paths that no service owns, however they are written', async () => {
    for (const path of [
      '/nothing',
      '/trpc/nothing',
      '/export/../nothing',
      '/trpc/%',
      '//evil.example/trpc/usage.current',
    ]) {
      const answer = await raw(path);
      expect([path, answer.status]).toEqual([path, 404]);
    }
  });
});

describe('a client that does not end its request', () => {
  const sockets: Socket[] = [];
  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.destroy();
  });

  const MIXED = '/trpc/usage.current,jobs.log?batch=1';

  async function begin(path: string, headers: Record<string, string>) {
    const socket = connect(Number(new URL(stack.url).port), '127.0.0.1');
    sockets.push(socket);
    const own = { host: 'x', 'content-type': 'application/json', ...headers };
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk.toString('latin1');
    });
    socket.on('error', () => {});
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const lines = Object.entries(own).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
    const status = () => vi.waitFor(() => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)![1]), { timeout: 60_000 });
    return { socket, status, closed, received: () => answer };
  }

  const mixed = (secret: string) =>
    raw(MIXED, {
      method: 'POST',
      headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' },
      body: JSON.stringify({ 0: { merchantId: 'acme' }, 1: {} }),
    }).then(({ status }) => status);

  test('is told not to use the connection again if its body is refused, by a service or the console', async () => {
    const refused = [
      ['/trpc/usage.record', 90_000],
      ['/api/admin/metrics/calculate', 200_000],
    ].map(async ([path, length]) => {
      const { socket, closed, received } = await begin(`${path}`, { 'content-length': `${length}` });
      socket.write('x'.repeat(1_000));
      await closed;
      return received();
    });
    for (const answer of await Promise.all(refused))
      expect(answer).toMatch(/^HTTP\/1\.1 4\d\d [\s\S]*connection: close\r\n[\s\S]*\}$/i);
  });

  test.each<Record<string, string>>([
    {},
    { authorization: 'Bearer made-up-key-of-nobody' },
    { cookie: 'tally_session=made-up', origin: 'http://x' },
  ])('without a key (%o) is answered before its batch is read, and takes no place', async (shown) => {
    const waiting = [];
    for (let index = 0; index < 20; index++) waiting.push(await begin(MIXED, { ...shown, 'content-length': '10000' }));
    for (const each of waiting) expect(await each.status()).toBe(401);
    expect(await mixed(key)).toBe(200);
  });

  test('with a key takes its own places only, and is given up', async () => {
    const { keys } = createIngestClient({ url: stack.url, key });
    const { key: slow } = await keys.create.mutate({ name: 'slow', role: 'viewer' });
    const authorization = `Bearer ${slow}`;
    const waiting = [];
    for (let index = 0; index < 20; index++)
      waiting.push(await begin(MIXED, { authorization, 'content-length': '10000' }));
    const statuses = Promise.all(waiting.map(({ status }) => status()));
    expect(await mixed(key)).toBe(200);
    expect(new Set(await statuses)).toEqual(new Set([408, 429]));
    expect(await mixed(slow)).toBe(200);
  });

  test.each(['/trpc/usage.record', MIXED, '/nothing', '/session', '/livez', '/'])(
    'but sends on after the answer of %s is cut off',
    async (path) => {
      const { socket, status, closed } = await begin(path, { 'transfer-encoding': 'chunked' });
      const chunk = `10000\r\n${' '.repeat(65_536)}\r\n`;
      const send = () => {
        while (socket.write(chunk));
      };
      socket.on('drain', send);
      send();
      expect(await status()).toBeGreaterThanOrEqual(200);
      await closed;
    },
  );
});

describe('a service that is down', () => {
  test('costs its own part of an answer only, with a clear 503', async () => {
    await stack.services.engine.stop();
    try {
      const all = batching(httpBatchLink);
      const [summary, list] = await Promise.allSettled([
        all.analytics.summary.query(range),
        all.realtime.list.query({}),
      ]);
      expect(summary).toMatchObject({ value: { totals: { cost: '12.500000003' } } });
      expect(list).toMatchObject({ reason: { data: { code: 'UNAVAILABLE', path: 'realtime.list' } } });
      expect((list as PromiseRejectedResult).reason).toBeInstanceOf(TRPCClientError);

      const alone = await raw('/api/admin/metrics/custom-definitions');
      expect(alone.status).toBe(503);
      expect(alone.headers.get('retry-after')).toBe('1');
      expect((await bodyOf(alone)).error).toMatchObject({
        message: 'metrics-engine does not answer.',
        data: { code: 'UNAVAILABLE', httpStatus: 503 },
      });
      const ready = await raw('/readyz');
      expect(ready.status).toBe(200);
      expect(await ready.json()).toMatchObject({
        ok: true,
        degraded: true,
        version: VERSION,
        services: {
          'metrics-engine': { ok: false },
          'usage-ingest': { ok: true, version: VERSION },
          'analytics-api': { ok: true, version: VERSION },
        },
      });
    } finally {
      await stack.services.engine.start();
    }
    expect((await raw('/api/admin/metrics/custom-definitions')).status).toBe(200);
  });
});
