import { mutation, query, TallyError } from '@tally/contracts';
import fc from 'fast-check';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { createAuthenticate } from '../callers/auth.ts';
import { createLog } from '../process/log.ts';
import { edgeSettings, READY } from '../testing.ts';
import { createDirect } from './direct.ts';
import { type App, createApp } from './http.ts';
import { readyJson } from './ready-json.ts';
import { serveContract } from './trpc.ts';

/** Compares answers of the fast path, byte by byte, with those of tRPC's fetch adapter behind the same edge. */
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
  ask: async ({ input: { how } }) => (how === 'ready' ? readyJson('{"text":"kept as its JSON"}') : { text: how }),
  idle: async () => ({}),
});

const KEY = 'the-admin-key-is-long';
let app: App;
let server: Awaited<ReturnType<App['listen']>>;
let address: string;

beforeAll(async () => {
  app = createApp({
    name: 'test',
    log: createLog('test', 'silent'),
    router,
    authenticate: createAuthenticate({ env: { TALLY_ADMIN_KEY: KEY }, keys: { findByHash: async () => undefined } }),
    env: edgeSettings(),
    registry: new Registry(),
    readiness: READY,
  });
  server = await app.listen({ host: '127.0.0.1', port: 0 });
  address = `http://127.0.0.1:${server.port}`;
});
afterAll(() => server.stop());

const plain = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
const seen = async (response: Response) => ({
  status: response.status,
  body: await response.text(),
  headers: ['content-type', 'vary', 'retry-after', 'x-request-id', 'x-content-type-options', 'cache-control'].map(
    (name) => response.headers.get(name),
  ),
});

test('the fast path answers what the fetch adapter answers', async () => {
  const how = fc.oneof(
    fc.constantFrom('busy', 'away', 'broken', 'ready'),
    fc.string(),
    fc.string({ unit: 'grapheme' }),
  );
  const value = fc.oneof(fc.record({ how }), fc.record({ 0: fc.record({ how }) }), fc.jsonValue({ maxDepth: 2 }));
  const body = fc.oneof(
    { weight: 5, arbitrary: value.map((each) => JSON.stringify(each)) },
    { weight: 1, arbitrary: fc.constantFrom('', '{', '{"how":', 'null', '[]', '\ufeff{}') },
  );
  const authorization = fc.constantFrom(plain.authorization, plain.authorization, 'Bearer nobody-knows-me', '');
  const path = fc.constantFrom('/trpc/echo.once', '/trpc/ask', '/trpc/idle');
  const batch = fc.constantFrom('', 'batch=1');
  const direct = createDirect(router);
  await fc.assert(
    fc.asyncProperty(path, batch, fc.boolean(), body, authorization, async (to, search, get, text, key) => {
      const isGet = get && to !== '/trpc/echo.once';
      const parts = [search, isGet ? `input=${encodeURIComponent(text)}` : ''].filter((part) => part);
      const headers = { ...plain, authorization: key, 'x-request-id': 'r1' };
      const method = isGet ? 'GET' : 'POST';
      const ask = async (question: string) => {
        const isPlain = direct.read(to.slice('/trpc/'.length), { method, search: question, headers }) !== undefined;
        const init = isGet ? { headers } : { method, headers, body: text };
        return [isPlain, await seen(await fetch(`${address}${to}?${question}`, init))] as const;
      };
      // An unknown parameter leaves the request to the adapter.
      const [fast, slow] = [await ask(parts.join('&')), await ask([...parts, 'x=1'].join('&'))];
      expect([fast[0], slow[0]]).toEqual([true, false]);
      expect(fast[1]).toEqual(slow[1]);
    }),
    { numRuns: 500 },
  );
});

test.each([
  ['a query with more than its input', 'ask', { method: 'GET', search: 'input=%7B%7D&more=1' }],
  ['a query with a batch of none', 'ask', { method: 'GET', search: 'batch=0' }],
  ['an answer in pieces', 'echo.once', { search: 'batch=1', headers: { 'trpc-accept': 'application/jsonl' } }],
  ['an answer in lines', 'echo.once', { headers: { accept: 'application/jsonl' } }],
])('%s is left to the fetch adapter', (_, path, changed) => {
  expect(createDirect(router).read(path, { method: 'POST', search: '', headers: {}, ...changed })).toBeUndefined();
});

test('there is no middleware that the fast path would pass by', () => {
  const registered = app.hono.routes.map(({ method, path }) => `${method} ${path}`);
  expect(registered).toEqual(['ALL /trpc/*', ...app.routes.map(({ method, path }) => `${method} ${path}`)]);
});
