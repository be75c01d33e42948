import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { mutation, query, TallyError } from '@tally/contracts';
import fc from 'fast-check';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { createAuthenticate } from './auth.ts';
import { type App, createApp } from './http.ts';
import { createLog } from './log.ts';
import { serveContract } from './trpc.ts';

/** What is answered from Node's own request must be, to the byte, what tRPC's fetch adapter answers. */
const input = z.strictObject({ how: z.string() });
const contract = {
  echo: { once: mutation({ access: 'record', input, output: z.object({ text: z.string() }) }) },
  ask: query({ access: 'read', input, output: z.object({ text: z.string() }) }),
  idle: query({ access: 'read', input: input.partial().prefault({}), output: z.object({}) }),
} as const;

const router = serveContract(contract, {
  echo: {
    async once({ input: { how } }) {
      if (how === 'busy') throw new TallyError('RATE_LIMITED', 'Slowly.', { details: { retryAfter: 7 } });
      if (how === 'away') throw new TallyError('UNAVAILABLE', 'Send it again.');
      if (how === 'broken') throw new Error('the password is swordfish');
      return { text: how };
    },
  },
  ask: async ({ input: { how } }) => ({ text: how }),
  idle: async () => ({}),
});

const KEY = 'the-admin-key-is-long';
const LEFT = 599;
let app: App;
let server: Server;
let address: string;

beforeAll(async () => {
  app = createApp({
    name: 'test',
    log: createLog('test', 'silent'),
    router,
    authenticate: createAuthenticate({ env: { TALLY_ADMIN_KEY: KEY }, keys: { findByHash: async () => undefined } }),
    maxBodyBytes: 2_000,
    registry: new Registry(),
    health: async () => ({ ok: true }),
  });
  server = createServer((request, response) => {
    if (!app.direct(request, response)) response.writeHead(LEFT).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => void server.close());

const plain = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
const seen = async (response: Response) => ({
  status: response.status,
  body: await response.text(),
  headers: ['content-type', 'vary', 'retry-after', 'x-request-id'].map((name) => response.headers.get(name)),
});

test('what is answered directly is what the fetch adapter answers', async () => {
  const how = fc.oneof(fc.constantFrom('busy', 'away', 'broken'), fc.string(), fc.string({ unit: 'grapheme' }));
  const value = fc.oneof(fc.record({ how }), fc.record({ 0: fc.record({ how }) }), fc.jsonValue({ maxDepth: 2 }));
  const body = fc.oneof(
    { weight: 5, arbitrary: value.map((each) => JSON.stringify(each)) },
    { weight: 1, arbitrary: fc.constantFrom('', '{', '{"how":', 'null', '[]', '\ufeff{}') },
  );
  const authorization = fc.constantFrom(plain.authorization, plain.authorization, 'Bearer nobody-knows-me', '');
  const path = fc.constantFrom('/trpc/echo.once', '/trpc/ask', '/trpc/idle');
  const batch = fc.constantFrom('', 'batch=1');
  await fc.assert(
    fc.asyncProperty(path, batch, fc.boolean(), body, authorization, async (to, search, get, text, key) => {
      const input = get && to !== '/trpc/echo.once' ? `input=${encodeURIComponent(text)}` : undefined;
      const parts = [search, input].filter((part) => part);
      const where = parts.length > 0 ? `${to}?${parts.join('&')}` : to;
      const headers = { ...plain, authorization: key, 'x-request-id': 'r1' };
      const init = input === undefined ? { method: 'POST', headers, body: text } : { method: 'GET', headers };
      const direct = await seen(await fetch(`${address}${where}`, init));
      expect(direct.status).not.toBe(LEFT);
      expect(direct).toEqual(await seen(await app.request(where, init)));
    }),
    { numRuns: 500 },
  );
});

test.each([
  ['a mutation that is got', '/trpc/echo.once?input=%7B%7D', { method: 'GET' }],
  ['a query with more than its input', '/trpc/ask?input=%7B%7D&more=1', { method: 'GET' }],
  ['several calls', '/trpc/echo.once,echo.once?batch=1', {}],
  ['an unknown procedure', '/trpc/echo.twice', {}],
  ['a name that every object has', '/trpc/constructor', {}],
  ['another path', '/livez', {}],
  ['a body of another type', '/trpc/echo.once', { headers: { ...plain, 'content-type': 'text/plain' } }],
  ['a body that is too large', '/trpc/echo.once', { body: 'x'.repeat(2_001) }],
  ['an answer in pieces', '/trpc/echo.once?batch=1', { headers: { ...plain, 'trpc-accept': 'application/jsonl' } }],
])('%s is left to the fetch adapter', async (_, path, init: RequestInit) => {
  const method = init.method ?? 'POST';
  const request = { method, headers: plain, ...(method === 'POST' && { body: '{"how":"x"}' }), ...init };
  expect((await fetch(`${address}${path}`, request)).status).toBe(LEFT);
});

test('bodies that come slowly hold no more memory than is said; who is too many is asked to come back', async () => {
  const most = 'x'.repeat(1_999);
  const { hostname, port } = new URL(address);
  const head = `POST /trpc/echo.once HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2000\r\n\r\n`;
  const slow = Array.from({ length: 17 }, () => connect(Number(port), hostname));
  await Promise.all(slow.map((socket) => new Promise((sent) => socket.write(head + most, sent))));
  const body = JSON.stringify({ how: 'x'.repeat(100) });
  const call = () => fetch(`${address}/trpc/echo.once`, { method: 'POST', headers: plain, body });
  await vi.waitFor(async () => expect((await call()).status).toBe(503));
  const refused = await call();
  expect(refused.headers.get('retry-after')).toBe('1');
  expect(await refused.json()).toMatchObject({ error: { data: { code: 'UNAVAILABLE' } } });
  for (const socket of slow) socket.destroy();
  await vi.waitFor(async () => expect((await call()).status).toBe(200));
});
