import { createHash } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { mutation, query } from '@tally/contracts';
import { Registry } from 'prom-client';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { createAuthenticate } from '../callers/auth.ts';
import { createLog } from '../process/log.ts';
import { edgeSettings, READY } from '../testing.ts';
import { createApp } from './http.ts';
import type { Route } from './route.ts';
import { serveContract } from './trpc.ts';

const input = z.strictObject({ how: z.string() }).partial().prefault({});
const contract = {
  echo: mutation({ access: 'record', maxItems: 1_000, input, output: z.object({ text: z.string() }) }),
  ask: query({ access: 'read', input, output: z.object({ text: z.string() }) }),
  wait: query({ access: 'read', input, output: z.object({}) }),
  reign: mutation({ access: 'admin', platform: true, input, output: z.object({}) }),
} as const;

const ADMIN = 'the-admin-key-is-long';
const [BOB, EVE] = ['bobs-key-is-long-too', 'eves-key-is-long-too'];
const KIB = 1024;
const opened: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

async function serve(settings: Record<string, string> = {}) {
  const registry = new Registry();
  const lines: Record<string, unknown>[] = [];
  let waiting: (() => void)[] = [];
  const gone: (() => boolean)[] = [];
  const revoked = new Set<string>();
  const routes: Route[] = [
    {
      method: 'POST',
      path: '/source',
      access: 'record',
      source: true,
      anyType: true,
      answer: (c, { body }) => c.text(body.toString()),
    },
    { method: 'GET', path: '/file/secret', access: 'admin', answer: (c) => c.text('for admins') },
    { method: 'GET', path: '/file/:name', access: 'read', answer: (c) => c.text(c.req.param('name')!) },
    {
      method: 'GET',
      path: '/endless',
      access: 'read',
      async answer(c) {
        if (c.req.query('wait')) await new Promise<void>((resolve) => waiting.push(resolve));
        return c.body(
          new ReadableStream({
            pull: (stream) => stream.enqueue(new Uint8Array(64 * KIB)),
            cancel: () => void lines.push({ cancelled: true }),
          }),
        );
      },
    },
    {
      method: 'GET',
      path: '/broken',
      access: 'read',
      answer: (c) =>
        c.body(
          new ReadableStream({
            start: (stream) => stream.enqueue(new Uint8Array(10)),
            pull() {
              throw Object.assign(new Error('words of the database'), { code: '53100' });
            },
          }),
        ),
    },
    {
      method: 'GET',
      path: '/lasting',
      access: 'read',
      answer: (c) => c.body(new ReadableStream({ start: (stream) => stream.enqueue(new Uint8Array(10)) })),
    },
    { method: 'GET', path: '/open', access: 'open', answer: (c) => c.text('open') },
  ];
  const log = createLog('test', 'silent');
  log.level = 'info';
  const kept = (line: unknown) => lines.push(line as Record<string, unknown>);
  Object.assign(log, { info: kept, error: kept, warn: kept });
  const app = createApp({
    name: 'test',
    log,
    router: serveContract(
      contract,
      {
        echo: async ({ input: { how = '' } }) => ({ text: how }),
        ask: async ({ input: { how = '' } }) => ({ text: how }),
        async wait({ isGone }) {
          gone.push(isGone);
          await new Promise<void>((resolve) => waiting.push(resolve));
          return {};
        },
        reign: async () => ({}),
      },
      (_change, run) => run(),
    ),
    routes,
    authenticate: createAuthenticate({
      env: { TALLY_ADMIN_KEY: ADMIN },
      keys: {
        async findByHash(hash) {
          const name = [BOB, EVE].find((key) => hash === sha256(key) && !revoked.has(key));
          const more = {
            role: 'viewer',
            merchantId: null,
            teamId: null,
            createdAt: '',
            expiresAt: null,
            revokedAt: null,
          } as const;
          return name === undefined ? undefined : { id: name.slice(0, 3), name, ...more };
        },
      },
    }),
    env: edgeSettings({ MAX_BODY_BYTES: String(64 * KIB), MAX_HELD_BODY_BYTES: String(256 * KIB), ...settings }),
    registry,
    readiness: READY,
  });
  const { port, stop } = await app.listen({ host: '127.0.0.1', port: 0 });
  opened.push(stop);
  const url = `http://127.0.0.1:${port}`;
  return {
    app,
    stop,
    url,
    lines,
    /** Releases all calls of `wait`. */
    go() {
      for (const each of waiting) each();
      waiting = [];
    },
    waiting: () => waiting.length,
    /** For each call of `wait`, true if its caller has left. */
    gone: () => gone.map((isGone) => isGone()),
    revoke: (secret: string) => revoked.add(secret),
    async post(path: string, body: RequestInit['body'] = '{}', headers: Record<string, string> = {}) {
      const init = { method: 'POST', body, headers: { ...key(), 'content-type': 'application/json', ...headers } };
      return fetch(`${url}${path}`, { ...init, duplex: 'half' } as RequestInit);
    },
    get: (path: string, headers: Record<string, string> = key()) => fetch(`${url}${path}`, { headers }),
    raw: (text: string) => raw(port, text),
    async metric(name: string): Promise<number> {
      const found = (await registry.getSingleMetric(name)?.get())?.values ?? [];
      return found.reduce((sum, { value }) => sum + value, 0);
    },
    async routes(): Promise<Record<string, number>> {
      const found = (await registry.getSingleMetric('tally_http_requests_total')!.get()).values;
      return Object.fromEntries(found.map(({ labels, value }) => [`${labels.route} ${labels.status}`, value]));
    },
  };
}

const until = (check: () => unknown) => vi.waitFor(check, { timeout: 60_000 });
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const basic = (pair: string) => ({ authorization: `Basic ${Buffer.from(pair).toString('base64')}` });
const linesOf = (headers: Record<string, string>) =>
  Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
const key = (secret = ADMIN) => ({ authorization: `Bearer ${secret}` });
const codeOf = async (response: Response) =>
  ((await response.json()) as { error: { data: { code: string } } }).error.data.code;

type Raw = Awaited<ReturnType<typeof raw>>;

/** A raw connection: sends given text and keeps what it receives. */
async function raw(port: number, text: string) {
  const socket: Socket = connect(port, '127.0.0.1');
  opened.push(() => void socket.destroy());
  let answer = '';
  let closed = false;
  socket.on('data', (chunk) => {
    answer += chunk.toString();
  });
  socket.on('close', () => {
    closed = true;
  });
  socket.on('error', () => {});
  await new Promise<void>((sent) => socket.write(text, () => sent()));
  return { text, socket, answer: () => answer, closed: () => closed };
}

const head = (path: string, lines: string[] = [], method = 'POST') =>
  [`${method} ${path} HTTP/1.1`, 'host: x', 'content-type: application/json', ...lines, '', ''].join('\r\n');

describe('bodies', () => {
  test('without a key nothing of a body is kept, whatever its path and its coding', async () => {
    const { raw, metric, routes } = await serve();
    const piece = `1000\r\n${'x'.repeat(4096)}\r\n`;
    const sent: Raw[] = [];
    for (const path of ['/trpc/echo', '/source', '/nothing', '/trpc/nothing', '/trpc/echo,ask?batch=1', '/open'])
      for (const coding of ['content-length: 60000', 'transfer-encoding: chunked'])
        sent.push(await raw(`${head(path, [coding])}${coding.startsWith('t') ? piece : 'x'.repeat(59_999)}`));
    await until(() => {
      for (const each of sent) expect(each.answer()).toMatch(/^HTTP\/1\.1 (401|404|405) /);
    });
    expect(await metric('tally_http_body_bytes')).toBe(0);
    for (const { socket } of sent) socket.destroy();
    await until(async () => {
      const counted = Object.values(await routes()).reduce((sum, count) => sum + count, 0);
      expect(counted).toBe(sent.length);
    });
  });

  test('a refused client that sends on is cut off', async () => {
    const { raw } = await serve();
    const { socket, closed, answer } = await raw(head('/trpc/echo', ['transfer-encoding: chunked']));
    const piece = `10000\r\n${'x'.repeat(65_536)}\r\n`;
    for (let sent = 0; sent < 200 && !closed(); sent++) await new Promise((done) => socket.write(piece, done));
    await until(() => expect(closed()).toBe(true));
    expect(answer()).toMatch(/^HTTP\/1\.1 401 [\s\S]*connection: close/i);
  });

  test('one caller that withholds the ends of its bodies leaves room for all others', async () => {
    const { raw, post, metric } = await serve();
    const withheld: Raw[] = [];
    for (let index = 0; index < 17; index++)
      withheld.push(
        await raw(
          `${head('/trpc/echo', [`authorization: Bearer ${ADMIN}`, 'content-length: 60000'])}${'x'.repeat(59_999)}`,
        ),
      );
    await until(() => {
      const refused = withheld.filter(({ answer }) => answer().startsWith('HTTP/1.1 429'));
      expect(refused).toHaveLength(16);
    });
    expect(await metric('tally_http_body_bytes')).toBe(59_999);
    // A viewer posts its query.
    const body = JSON.stringify({ how: 'x'.repeat(50_000) });
    expect((await post('/trpc/ask', body, key(BOB))).status).toBe(200);
    for (const { socket } of withheld) socket.destroy();
    await until(async () => expect(await metric('tally_http_body_bytes')).toBe(0));
    expect((await post('/trpc/echo')).status).toBe(200);
  });

  test('all callers together hold no more than the room there is', async () => {
    const { raw, metric } = await serve({ MAX_HELD_BODY_BYTES: String(100 * KIB) });
    const from = (secret: string) =>
      raw(`${head('/trpc/ask', [`authorization: Bearer ${secret}`, 'content-length: 60000'])}${'x'.repeat(59_999)}`);
    await from(BOB);
    await until(async () => expect(await metric('tally_http_body_bytes')).toBe(59_999));
    const second = await from(EVE);
    await until(() => expect(second.answer()).toMatch(/^HTTP\/1\.1 503 [\s\S]*retry-after: 1[\s\S]*UNAVAILABLE/i));
    expect(await metric('tally_http_body_bytes')).toBe(59_999);
  });

  test('a body without progress is given up', async () => {
    const { raw, metric } = await serve({ BODY_PROGRESS_MS: '100' });
    const { answer } = await raw(
      `${head('/trpc/echo', [...linesOf(key()), 'content-length: 60000'])}${'x'.repeat(5_000)}`,
    );
    await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 408 [\s\S]*BODY_TIMEOUT/));
    expect(await metric('tally_http_body_bytes')).toBe(0);
  });

  test('a body over the limit is refused, whether or not it says its length, and by what it inflates to', async () => {
    const { post, metric } = await serve();
    const large = JSON.stringify({ how: 'x'.repeat(100_000) });
    expect((await post('/trpc/echo', large)).status).toBe(413);
    const streamed = await post('/trpc/echo', new Blob([large]).stream());
    expect([streamed.status, await codeOf(streamed)]).toEqual([413, 'BODY_TOO_LARGE']);
    const gzip = { 'content-encoding': 'gzip' };
    const bomb = gzipSync(Buffer.alloc(20 * KIB * KIB, 'x'));
    expect(bomb.length).toBeLessThan(64 * KIB);
    for (const path of ['/trpc/echo', '/source']) expect((await post(path, bomb, gzip)).status).toBe(413);
    expect(await metric('tally_http_body_bytes')).toBe(0);
  });

  test('gzip is understood, and no other encoding', async () => {
    const { post } = await serve();
    const body = gzipSync('{"how":"well"}');
    const inflated = await post('/trpc/echo', body, { 'content-encoding': 'gzip' });
    expect(await inflated.json()).toEqual({ result: { data: { text: 'well' } } });
    expect(await (await post('/source', body, { 'content-encoding': 'gzip' })).text()).toBe('{"how":"well"}');
    for (const name of ['GZIP', 'x-gzip'])
      expect((await post('/trpc/echo', body, { 'content-encoding': name })).status).toBe(200);
    const calls = gzipSync('{"0":{"how":"a"},"1":{"how":"b"}}');
    expect((await post('/trpc/echo,echo?batch=1', calls, { 'content-encoding': 'gzip' })).status).toBe(200);
    const broken = await post('/trpc/echo', 'not gzip', { 'content-encoding': 'gzip' });
    expect([broken.status, await codeOf(broken)]).toEqual([400, 'INVALID_INPUT']);
    const other = await post('/trpc/echo', body, { 'content-encoding': 'br' });
    expect([other.status, await codeOf(other)]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE']);
  });

  test.each([
    ['/trpc/echo', '{"how":"', '"}'],
    ['/trpc/echo,echo?batch=1', '{"0":{"how":"', '"},"1":{}}'],
    ['/source', '', ''],
    ['/trpc/echo', `{"how":"${'x'.repeat(40 * KIB)}`, '"}'],
  ])('text that is not UTF-8 is refused at %s, never replaced', async (path, before, after) => {
    const { post, metric } = await serve();
    for (const broken of ['ff', 'c3', 'c0af', 'eda080']) {
      const body = Buffer.concat([Buffer.from(before), Buffer.from(broken, 'hex'), Buffer.from(after)]);
      const response = await post(path, body);
      expect([response.status, await codeOf(response)]).toEqual([400, 'INVALID_INPUT']);
    }
    expect((await post(path, Buffer.from(`${before}é\ufffd${after}`))).status).toBe(200);
    expect(await metric('tally_http_body_bytes')).toBe(0);
  });

  test('query parameters that are not UTF-8 are refused', async () => {
    const { get } = await serve();
    const ask = (how: string) => get(`/trpc/ask?input=%7B%22how%22:%22${how}%22%7D`, key());
    for (const how of ['%ff', '%C3', '%ed%a0%80']) {
      const response = await ask(how);
      expect([response.status, await codeOf(response)]).toEqual([400, 'INVALID_INPUT']);
    }
    for (const how of ['%C3%A9', '%EF%BF%BD', '%', '100%25', '%zz']) expect((await ask(how)).status).toBe(200);
  });

  test.each([
    ['more items than its procedure takes', '/trpc/echo', `[${'1,'.repeat(200_000)}1]`],
    ['more items than a question has', '/trpc/ask', `[${'1,'.repeat(200_000)}1]`],
    ['more items than a route takes', '/source', `[${'1,'.repeat(200_000)}1]`],
    ['too many keys', '/trpc/ask', `{${'"a":1,'.repeat(90_000)}"a":1}`],
    ['arrays in each other without end', '/source', '['.repeat(500_000)],
    ['objects in each other without end', '/trpc/echo,echo?batch=1', '{"a":'.repeat(100_000)],
  ])('JSON with %s is refused', async (_, path, body) => {
    const { post, lines } = await serve({ MAX_BODY_BYTES: '8000000' });
    const response = await post(path, body);
    expect([response.status, await codeOf(response)]).toEqual([400, 'INVALID_INPUT']);
    expect(lines.filter(({ err }) => err)).toEqual([]);
  });
});

describe('callers', () => {
  test.each([
    ['Bearer', '/trpc/echo', key(), 200],
    ['x-api-key', '/trpc/echo', { 'x-api-key': ADMIN }, 200],
    ['x-api-key', '/source', { 'x-api-key': ADMIN }, 200],
    ['x-api-key beside an empty Authorization', '/trpc/echo', { 'x-api-key': ADMIN, authorization: '' }, 200],
    ['Basic with the key as password', '/source', basic(`anybody:${ADMIN}`), 200],
    ['Basic with the key as name', '/source', basic(`${ADMIN}:`), 200],
    ['Basic with another password', '/source', basic(`${ADMIN}:wrong`), 401],
    ['Basic', '/trpc/echo', basic(`${ADMIN}:`), 401],
    ['an unknown key', '/trpc/echo', key('nobody-knows-this'), 401],
    ['nothing', '/trpc/echo', {}, 401],
    ['nothing', '/trpc/nothing', {}, 401],
    ['a key without the access', '/trpc/echo', key(BOB), 403],
    ['a key without the access', '/source', key(BOB), 403],
    ['a key', '/trpc/nothing', key(BOB), 404],
  ])('%s at %s is answered with the right status', async (_, path, headers: Record<string, string>, status) => {
    const { url } = await serve();
    const response = await fetch(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: '{}',
    });
    expect(response.status).toBe(status);
    expect(response.headers.has('www-authenticate')).toBe(status === 401);
    if (status === 401) expect(await codeOf(response)).toBe('UNAUTHORIZED');
  });

  test('a caller has so many calls at once, and others go on', async () => {
    const { get, go, waiting } = await serve({ MAX_CALLS_AT_ONCE: '3' });
    const running = Array.from({ length: 3 }, () => get('/trpc/wait', key(BOB)));
    await until(() => expect(waiting()).toBe(3));
    const refused = await get('/trpc/wait', key(BOB));
    expect([refused.status, refused.headers.get('retry-after'), await codeOf(refused)]).toEqual([
      429,
      '1',
      'RATE_LIMITED',
    ]);
    expect((await get('/file/a', key(BOB))).status).toBe(429);
    expect((await get('/trpc/ask', key(EVE))).status).toBe(200);
    go();
    for (const response of await Promise.all(running)) expect(response.status).toBe(200);
    await until(async () => expect((await get('/trpc/ask', key(BOB))).status).toBe(200));
  });

  test('a caller has so many calls a minute', async () => {
    const { get } = await serve({ MAX_CALLS_PER_MINUTE: '2' });
    const answers = [];
    // Enough calls that three fall into one minute, wherever its edge is.
    for (let call = 0; call < 5; call++) answers.push(await get('/trpc/ask', key(BOB)));
    const refused = answers.find(({ status }) => status === 429)!;
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await get('/trpc/ask', key(EVE))).status).toBe(200);
  });

  test('a batch has so many calls', async () => {
    const { get, post } = await serve({ MAX_BATCH_CALLS: '3' });
    const names = (count: number) => Array.from({ length: count }, () => 'ask').join(',');
    expect((await get(`/trpc/${names(3)}?batch=1`)).status).toBe(200);
    const refused = await get(`/trpc/${names(4)}?batch=1`);
    expect([refused.status, await codeOf(refused)]).toEqual([400, 'BATCH_TOO_LARGE']);
    expect((await post(`/trpc/${encodeURIComponent(names(700))}?batch=1`)).status).toBe(400);
  });
});

describe('the target of a request', () => {
  const statusOf = ({ answer }: Raw) => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer())?.[1]);

  test('may be an absolute address, whose path is answered', async () => {
    const { raw, routes } = await serve();
    const lines = linesOf(key());
    const targets = ['http://x/file/any', 'HTTPS://X/file/any?a=1', 'http://x/file/secret', 'http://x'];
    const sent = await Promise.all(targets.map((target) => raw(head(target, lines, 'GET'))));
    await until(() => expect(sent.map(statusOf)).toEqual([200, 200, 200, 404]));
    const called = await raw(head('http://x/trpc/echo', [...lines, 'content-length: 2'], 'POST').concat('{}'));
    await until(() => expect(called.answer()).toContain('"result"'));
    expect(Object.keys(await routes()).map((each) => each.split(' ')[0])).toContain('/file/:name');
  });

  test('may be * for OPTIONS; other targets than a path are refused', async () => {
    const { raw } = await serve();
    const all = await raw(head('*', [], 'OPTIONS'));
    await until(() => expect(all.answer()).toMatch(/^HTTP\/1\.1 204.*allow: GET/is));
    const others = await Promise.all(
      ['*', 'http://user@x/livez', 'ftp://x/livez', 'http://other/livez'].map((target) => raw(head(target, [], 'GET'))),
    );
    await until(() => {
      expect(others.map(statusOf)).toEqual([400, 400, 400, 400]);
      for (const { answer } of others) expect(answer()).toContain('INVALID_INPUT');
    });
  });
});

describe('metrics and the log', () => {
  test('nobody can make series or long lines at will', async () => {
    const { raw, routes, lines, get } = await serve();
    const made = ['trpc/', ''].flatMap((under) =>
      ['POST', 'PUT', 'GET', 'OPTIONS', 'DELETE', 'HEAD'].flatMap((method) =>
        [key(), {}].map((headers) => ({ method, path: `/${under}${'made-up'.repeat(500)}`, headers })),
      ),
    );
    const odd = [
      ...made.flatMap(({ method, path, headers }, index) => [
        head(`${path}-${index}`, [...linesOf(headers), 'content-length: 900000000'], method),
        head(`${path}-${index}`, linesOf(headers), method),
        head(`/trpc/%E0%A4%A${index}`, linesOf(headers), method),
        head(`/trpc/ask/${index}`, linesOf(headers), method),
      ]),
    ];
    const sent = await Promise.all(
      odd.map((text) => raw(text.replace('content-type: application/json', 'content-type: text/plain'))),
    );
    await until(() => {
      for (const { answer, text } of sent) expect(answer(), text).toMatch(/^HTTP\/1\.1 4/);
    });
    for (const { socket } of sent) socket.destroy();
    expect((await get('/file/any')).status).toBe(200);
    await until(async () => {
      const names = new Set(Object.keys(await routes()).map((each) => each.split(' ')[0]));
      expect([...names].sort()).toEqual(['/file/:name', 'unknown']);
    });
    await until(() => expect(lines.length).toBe(sent.length + 1));
    for (const line of lines) expect(JSON.stringify(line).length).toBeLessThan(1_000);
  });

  test('a request whose client leaves is counted and logged', async () => {
    const { raw, routes, waiting, lines, go } = await serve();
    const inBody = await raw(`${head('/trpc/echo', [...linesOf(key()), 'content-length: 60000'])}{`);
    const inAnswer = await raw(head('/trpc/wait', linesOf(key()), 'GET'));
    await until(() => expect(waiting()).toBe(1));
    inBody.socket.destroy();
    inAnswer.socket.destroy();
    await until(async () => expect(await routes()).toEqual({ 'echo 499': 1, 'wait 499': 1 }));
    expect(lines.map(({ route, status }) => [route, status]).sort()).toEqual([
      ['echo', 499],
      ['wait', 499],
    ]);
    go();
  });
});

test('a call is told that its caller has gone', async () => {
  const { url, waiting, gone, go } = await serve();
  const leaving = new AbortController();
  const call = fetch(`${url}/trpc/wait`, { headers: key(), signal: leaving.signal });
  await until(() => expect(waiting()).toBe(1));
  expect(gone()).toEqual([false]);
  leaving.abort();
  await expect(call).rejects.toThrow();
  await until(() => expect(gone()).toEqual([true]));
  go();
});

describe('the end', () => {
  test('requests under way are answered, and connections that ask nothing do not delay it', async () => {
    const { raw, get, go, waiting, stop, app } = await serve();
    const silent = [await raw(''), await raw('GET /livez HTTP/1.1\r\nhost:')];
    const running = get('/trpc/wait');
    await until(() => expect(waiting()).toBe(1));
    const stopped = stop();
    expect(app.stopping.aborted).toBe(false);
    await until(() => expect(app.stopping.aborted).toBe(true));
    await expect(get('/livez')).rejects.toThrow();
    expect(silent.map(({ closed }) => closed())).toEqual([false, false]);
    go();
    expect((await running).status).toBe(200);
    await stopped;
    await until(() => expect(silent.map(({ closed }) => closed())).toEqual([true, true]));
  });

  test('a service that is leaving says so before it closes its port', async () => {
    const { get, stop } = await serve({ SHUTDOWN_DELAY_MS: '1000' });
    const stopped = stop();
    expect((await get('/readyz')).status).toBe(503);
    expect((await get('/trpc/ask')).status).toBe(200);
    await stopped;
  });
});

describe('streams', () => {
  test('an error after the beginning of an answer breaks it off, and is counted as what it is', async () => {
    const { get, routes, lines } = await serve();
    const response = await get('/broken');
    expect(response.status).toBe(200);
    await expect(response.arrayBuffer()).rejects.toThrow();
    await until(async () => expect(await routes()).toEqual({ '/broken 503': 1 }));
    expect(lines).toContainEqual(expect.objectContaining({ err: expect.objectContaining({ code: '53100' }) }));
  });

  test('closes the source of an answer that nobody reads: after a HEAD, or when the client has left', async () => {
    const { url, raw, lines, go, waiting } = await serve();
    const cancelled = () => lines.filter((line) => line.cancelled).length;
    const answer = await fetch(`${url}/endless`, { method: 'HEAD', headers: key() });
    expect([answer.status, await answer.text(), cancelled()]).toEqual([200, '', 1]);
    const { socket } = await raw(head('/endless?wait=1', linesOf(key()), 'GET'));
    await until(() => expect(waiting()).toBe(1));
    socket.destroy();
    await until(() => expect(lines.some(({ status }) => status === 499)).toBe(true));
    go();
    await until(() => expect(cancelled()).toBe(2));
  });

  test('an answer that lasts ends with its key, and those of other keys go on', async () => {
    const { raw, revoke, routes } = await serve();
    const [bobs, eves] = [
      await raw(head('/lasting', linesOf(key(BOB)), 'GET')),
      await raw(head('/lasting', linesOf(key(EVE)), 'GET')),
    ];
    for (const { answer } of [bobs, eves]) await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 200 /));
    revoke(BOB);
    await until(() => expect(bobs.closed()).toBe(true));
    expect(bobs.answer()).not.toMatch(/\r\n0\r\n\r\n$/);
    expect(eves.closed()).toBe(false);
    await until(async () => expect(await routes()).toMatchObject({ '/lasting 401': 1 }));
  });

  test('a reader that takes nothing more is given up', async () => {
    const { raw, routes, lines } = await serve({ STALLED_READER_MS: '200' });
    const { socket } = await raw(head('/endless', linesOf(key()), 'GET'));
    socket.pause();
    await until(async () => expect(await routes()).toEqual({ '/endless 499': 1 }));
    await until(() => expect(lines).toContainEqual({ cancelled: true }));
  });

  test('a reader that leaves ends what it was read from', async () => {
    const { get, lines, routes } = await serve();
    const reader = (await get('/endless')).body!.getReader();
    await reader.read();
    await reader.cancel();
    await until(() => expect(lines).toContainEqual({ cancelled: true }));
    await until(async () => expect(await routes()).toEqual({ '/endless 499': 1 }));
    expect(lines.filter(({ err }) => err)).toEqual([]);
  });
});

describe('HTTP', () => {
  test.each([
    ['127.0.0.1', {}, 200],
    ['::1', {}, 200],
    ['0.0.0.0', {}, 401],
    ['0.0.0.0', key(BOB), 200],
    ['metrics.example.com', {}, 401],
  ])('with HOST %s metrics are for %o: %s', async (HOST, headers: Record<string, string>, status) => {
    const { get } = await serve({ HOST });
    expect((await get('/metrics', headers)).status).toBe(status);
  });

  test('a GET has no body', async () => {
    const { raw } = await serve();
    const { answer } = await raw(`${head('/trpc/ask', [...linesOf(key()), 'content-length: 5'], 'GET')}12345`);
    await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 413 /));
  });

  test.each([
    ['PUT', '/trpc/echo', 405, 'GET, POST'],
    ['OPTIONS', '/trpc/echo', 405, 'GET, POST'],
    ['HEAD', '/trpc/ask', 405, 'GET, POST'],
    ['DELETE', '/source', 405, 'POST'],
    ['POST', '/open', 405, 'GET, HEAD'],
    ['HEAD', '/open', 200, null],
    ['HEAD', '/file/a', 401, null],
    ['OPTIONS', '/nothing', 404, null],
  ])('%s of %s is answered with %s', async (method, path, status, allow) => {
    const { url } = await serve();
    const response = await fetch(`${url}${path}`, { method });
    expect([response.status, response.headers.get('allow')]).toEqual([status, allow]);
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
  });

  test.each(['/trpc/ask', '/trpc/ask,ask?batch=1', '/file/a', '/trpc/none', '/metrics', '/readyz'])(
    'no cache may keep the answer of %s',
    async (path) => {
      const { get } = await serve();
      expect((await get(path)).headers.get('cache-control')).toBe('no-store');
    },
  );

  test('a mutation cannot be got', async () => {
    const { get } = await serve();
    const response = await get('/trpc/echo?input=%7B%7D');
    expect([response.status, await codeOf(response)]).toEqual([405, 'METHOD_NOT_ALLOWED']);
  });

  test.each([
    ['HTTP/1.0 without a Host', 'GET /livez HTTP/1.0\r\n\r\n', 200],
    ['HTTP/1.1 without a Host', 'GET /livez HTTP/1.1\r\n\r\n', 400],
    ['two Hosts', 'GET /livez HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n', 400],
    ['a whole URL', 'GET http://x/livez HTTP/1.1\r\nhost: x\r\n\r\n', 200],
  ])('a request with %s is answered', async (_, text, status) => {
    const { raw } = await serve();
    const { answer } = await raw(text);
    await until(() => expect(answer()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `)));
  });

  test.each([
    '/trpc/ask,ask/../../source',
    '/trpc/ask,ask/%2e%2E/..//source',
    '/trpc/ask,ask\\..\\..\\source',
    '/trpc/../source',
    '/trpc/ask,ask/../echo',
    '/file/../source',
    '/file/x/../../trpc/echo',
    '/./source',
    '//localhost/source',
    '/source/../source',
  ])('what is checked is what answers: POST %s is nothing', async (path) => {
    const { raw } = await serve();
    // A viewer may call neither.
    for (const body of ['{"how":"in"}', '{"0":{"how":"in"},"1":{"how":"in"}}']) {
      for (const search of ['', '?batch=1']) {
        const { answer } = await raw(
          `${head(`${path}${search}`, [...linesOf(key(BOB)), `content-length: ${body.length}`])}${body}`,
        );
        await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 404 /));
      }
    }
  });

  test('routes the path that it checked: an encoded path does not become another one', async () => {
    const { get } = await serve();
    expect((await get('/file/secret', key(BOB))).status).toBe(403);
    for (const path of ['/file/%73ecret', '/file/s%65cret', '/file/%73%65%63%72%65%74'])
      expect([path, await (await get(path, key(BOB))).text()]).toEqual([path, 'secret']);
    expect(await (await get('/file/secret')).text()).toBe('for admins');
  });

  test('the filters of a GET may have a thousand ids', async () => {
    const { get } = await serve();
    const how = Array.from({ length: 1_000 }, (_, at) => `merchant-${at}-of-a-platform-with-a-long-name`).join();
    const response = await get(`/trpc/ask?input=${encodeURIComponent(JSON.stringify({ how }))}`);
    expect(await response.json()).toEqual({ result: { data: { text: how } } });
  });

  test.each([
    ['a URL that is too long', `GET /trpc/ask?input=${'a'.repeat(70_000)} HTTP/1.1\r\n\r\n`, 431, 'HEADERS_TOO_LARGE'],
    ['headers that are too long', `GET /livez HTTP/1.1\r\nx: ${'a'.repeat(70_000)}\r\n\r\n`, 431, 'HEADERS_TOO_LARGE'],
    ['two lengths', 'POST /trpc/echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n', 400, 'INVALID_INPUT'],
    ['no HTTP', '\x16\x03\x01\x02 TLS\r\n\r\n', 400, 'INVALID_INPUT'],
  ])('%s is answered with an error like all others, and the connection closes', async (_, text, status, code) => {
    const { raw } = await serve();
    const { answer, closed } = await raw(text);
    await until(() => expect(closed()).toBe(true));
    const [lines, body] = answer().split('\r\n\r\n') as [string, string];
    expect(lines).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(JSON.parse(body).error.data).toMatchObject({ code, httpStatus: status, action: expect.any(String) });
  });

  test('an answer under way is never followed by the error of what comes after it', async () => {
    const { raw } = await serve();
    const { answer, closed, socket } = await raw(head('/lasting', linesOf(key()), 'GET'));
    await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 200 /));
    socket.write('no HTTP\r\n\r\n');
    await until(() => expect(closed()).toBe(true));
    expect(answer()).not.toContain('INVALID_INPUT');
  });

  test('nor where another request waits behind it', async () => {
    const { raw, get } = await serve();
    const { answer, closed, socket } = await raw(
      head('/lasting', linesOf(key()), 'GET') + head('/trpc/wait', linesOf(key()), 'GET'),
    );
    await until(() => expect(answer()).toMatch(/^HTTP\/1\.1 200 /));
    await get('/open');
    socket.write('no HTTP\r\n\r\n');
    await until(() => expect(closed()).toBe(true));
    expect(answer()).not.toContain('INVALID_INPUT');
  });

  test('requests that are sent without waiting for answers are answered one after the other', async () => {
    const { raw, get, go, waiting } = await serve();
    const one = head('/trpc/wait', linesOf(key()), 'GET');
    const { answer } = await raw(one + one + head('/open', linesOf(key()), 'GET'));
    for (let answered = 0; answered < 2; answered++) {
      await until(() => expect([waiting(), answer().split('HTTP/1.1 200').length - 1]).toEqual([1, answered]));
      // Whatever else had been handed over would have begun by now.
      await get('/open');
      expect(waiting()).toBe(1);
      go();
    }
    await until(() => expect(answer()).toMatch(/(HTTP\/1\.1 200 [\s\S]*){3}open/));
  });

  test('when their client leaves, none of them takes a slot of its caller any more', async () => {
    const { raw, get, go, waiting } = await serve({ MAX_CALLS_AT_ONCE: '3' });
    const { socket } = await raw(head('/trpc/wait', linesOf(key(BOB)), 'GET').repeat(3));
    await until(() => expect(waiting()).toBeGreaterThan(0));
    await get('/open');
    socket.destroy();
    const calls = async () => {
      const others = waiting();
      const answers = [1, 2, 3].map(() => get('/trpc/wait', key(BOB)));
      await until(() => expect(waiting()).toBe(others + 3));
      go();
      return (await Promise.all(answers)).map(({ status }) => status);
    };
    expect(await calls()).toEqual([200, 200, 200]);
  });

  test('a client that sends more and more of them is cut off', async () => {
    const { raw, get } = await serve();
    const { closed } = await raw(head('/trpc/wait', linesOf(key()), 'GET').repeat(40));
    await until(() => expect(closed()).toBe(true));
    expect((await get('/open')).status).toBe(200);
  });

  test('a client that asks first sends its body only where it is wanted', async () => {
    const { raw } = await serve();
    const asked = head('/source', [...linesOf(key()), 'content-length: 2', 'expect: 100-continue']);
    const good = await raw(asked);
    await until(() => expect(good.answer()).toMatch(/^HTTP\/1\.1 100 /));
    good.socket.write('{}');
    await until(() => expect(good.answer()).toMatch(/HTTP\/1\.1 200 [\s\S]*\{\}/));
    const bad = await raw(head('/source', ['content-length: 2', 'expect: 100-continue']));
    await until(() => expect(bad.answer()).toMatch(/^HTTP\/1\.1 401 /));
    const other = await raw(`${head('/source', [...linesOf(key()), 'content-length: 2', 'expect: 200-maybe'])}{}`);
    await until(() => expect(other.answer()).toMatch(/HTTP\/1\.1 200 [\s\S]*\{\}/));
  });

  test('there are so many connections at once', async () => {
    const { raw, metric } = await serve({ MAX_CONNECTIONS: '3' });
    const held = [await raw(''), await raw(''), await raw('')];
    const more = await raw('');
    await until(() => expect(more.closed()).toBe(true));
    expect(await metric('tally_http_connections_dropped_total')).toBe(1);
    expect(held.map(({ closed }) => closed())).toEqual([false, false, false]);
  });

  test('an error of a route names the path as it was sent', async () => {
    const { url } = await serve();
    const errorOf = async (path: string, headers = {}) =>
      ((await (await fetch(`${url}${path}`, { headers })).json()) as { error: { message: string; data: object } })
        .error;
    expect((await errorOf('/file/report.csv?a=b')).data).toMatchObject({ path: '/file/report.csv' });
    expect((await errorOf('/trpc/ask')).data).toMatchObject({ path: 'ask' });
    const refused = await errorOf('/file/secret', { authorization: `Bearer ${BOB}` });
    expect(refused.message).toContain('may not call /file/secret:');
  });

  test('an error says what to do about it', async () => {
    const { post } = await serve();
    for (const path of ['/trpc/echo', '/source', '/nothing']) {
      const { error } = (await (await post(path, '{}', key('nobody-knows-this'))).json()) as {
        error: { data: object };
      };
      expect(error.data).toMatchObject({ action: expect.stringContaining(' ') });
    }
  });
});
