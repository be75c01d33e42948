import { mutation, query, type RouterOf, TallyError } from '@tally/contracts';
import { createTRPCClient, httpLink } from '@trpc/client';
import { Registry } from 'prom-client';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createAuthenticate } from '../callers/auth.ts';
import { errorShape } from '../errors/errors.ts';
import { createLog } from '../process/log.ts';
import { edgeSettings, READY } from '../testing.ts';
import { createApp } from './http.ts';
import { serveContract } from './trpc.ts';

const contract = {
  greet: {
    loudly: query({
      access: 'read',
      input: z.strictObject({ name: z.string() }),
      output: z.object({ text: z.string() }),
    }),
  },
  fail: mutation({ access: 'record', input: z.strictObject({ how: z.string() }), output: z.object({}) }),
  crowd: query({
    access: 'read',
    input: z.strictObject({ people: z.array(z.object({ age: z.number() })) }),
    output: z.object({}),
  }),
  idle: mutation({
    access: 'record',
    input: z.strictObject({ how: z.string().default('well') }).prefault({}),
    output: z.object({ how: z.string() }),
  }),
  one: query({
    access: 'read',
    input: z.strictObject({ merchantId: z.string().optional() }).prefault({}),
    output: z.object({ merchantId: z.string().optional() }),
  }),
  many: query({
    access: 'read',
    input: z.strictObject({ merchantIds: z.array(z.string()).optional() }).prefault({}),
    output: z.object({ merchantIds: z.array(z.string()).optional() }),
  }),
  odd: query({ access: 'read', input: z.strictObject({ how: z.string() }), output: z.object({ text: z.string() }) }),
} as const;

const router = serveContract(contract, {
  greet: { loudly: async ({ input }) => ({ text: `HELLO ${input.name}` }) },
  fail: async ({ input }) => {
    if (input.how === 'known') throw new TallyError('CONFLICT', 'It is taken.', { details: { id: 7 } });
    throw new Error('the password is swordfish');
  },
  crowd: async () => ({}),
  idle: async ({ input }) => input,
  one: async ({ input }) => input,
  many: async ({ input }) => input,
  odd: async ({ input }) => {
    if (input.how === 'row') z.object({ id: z.string() }).parse({ id: 7 });
    return input.how === 'more' ? ({ text: 'shown', secret: 'swordfish' } as { text: string }) : ({ text: 7 } as never);
  },
});

const boundTo = (merchantId: string) =>
  ({ id: 'bound', role: 'admin', merchantId, teamId: null, expiresAt: null }) as const;

function app(options: { maxBodyBytes?: number; merchantId?: string } = {}) {
  return createApp({
    name: 'test',
    log: createLog('test', 'silent'),
    router,
    authenticate: createAuthenticate({
      env: { TALLY_ADMIN_KEY: 'the-admin-key-is-long' },
      keys: { findByHash: async () => (options.merchantId === undefined ? undefined : boundTo(options.merchantId)) },
    }),
    env: edgeSettings({ MAX_BODY_BYTES: String(options.maxBodyBytes ?? 10_000) }),
    registry: new Registry(),
    readiness: READY,
  });
}

const bearer = { authorization: 'Bearer the-admin-key-is-long', 'content-type': 'application/json' };
const post = (path: string, body: string, headers: Record<string, string> = bearer) =>
  app().request(path, { method: 'POST', body, headers });
const errorOf = async (response: Response) =>
  ((await response.json()) as { error: { message: string; data: { code: string; details?: unknown } } }).error;

describe('serveContract', () => {
  test('every procedure of the router has the access of its contract', () => {
    const served = Object.entries(router._def.procedures as Record<string, { _def: { meta: unknown } }>);
    expect(served.map(([name]) => name).sort()).toEqual([
      'crowd',
      'fail',
      'greet.loudly',
      'idle',
      'many',
      'odd',
      'one',
    ]);
    for (const [, { _def }] of served) expect(_def.meta).toHaveProperty('access');
  });

  test('a typed call is answered', async () => {
    const client = createTRPCClient<RouterOf<typeof contract>>({
      links: [
        httpLink({
          url: 'http://test/trpc',
          headers: bearer,
          fetch: async (input, init) => app().request(input as string, init as RequestInit),
        }),
      ],
    });
    await expect(client.greet.loudly.query({ name: 'Ada' })).resolves.toEqual({ text: 'HELLO Ada' });
  });

  test('an expected error keeps its code, its status and its details', async () => {
    const response = await post('/trpc/fail', '{"how":"known"}');
    expect(response.status).toBe(409);
    expect(await errorOf(response)).toMatchObject({
      message: 'It is taken.',
      data: { code: 'CONFLICT', details: { id: 7 } },
    });
  });

  test('an answer has what its contract states, and one that breaks it is an unexpected error', async () => {
    const more = await post('/trpc/odd', '{"how":"more"}');
    expect(await more.json()).toEqual({ result: { data: { text: 'shown' } } });
    for (const how of ['wrong', 'row']) {
      const broken = await post('/trpc/odd', JSON.stringify({ how }));
      expect(broken.status).toBe(500);
      expect((await errorOf(broken)).data.code).toBe('INTERNAL');
    }
  });

  test('an unexpected error never shows its message', async () => {
    const response = await post('/trpc/fail', '{"how":"unknown"}');
    expect(response.status).toBe(500);
    const text = await response.text();
    expect(text).toContain('INTERNAL');
    expect(text).not.toContain('swordfish');
    expect(text).not.toContain('stack');
  });

  test.each([
    ['no key', {}, 401, 'UNAUTHORIZED'],
    ['an unknown key', { authorization: 'Bearer nobody-knows-this' }, 401, 'UNAUTHORIZED'],
    ['another scheme', { authorization: 'Basic Zm9vOmJhcg==' }, 401, 'UNAUTHORIZED'],
  ])('%s is refused', async (_, headers, status, code) => {
    const response = await post('/trpc/fail', '{"how":"known"}', { 'content-type': 'application/json', ...headers });
    expect(response.status).toBe(status);
    expect((await errorOf(response)).data.code).toBe(code);
  });

  test.each([
    ['not JSON', '{"how":', 'INVALID_JSON'],
    ['a number', '7', 'INVALID_INPUT'],
    ['a field too many', '{"how":"x","why":"y"}', 'INVALID_INPUT'],
    ['a wrong type', '{"how":7}', 'INVALID_INPUT'],
    ['nothing', '', 'INVALID_INPUT'],
  ])('a body that is %s is a 400 with a code', async (_, body, code) => {
    const response = await post('/trpc/fail', body);
    expect(response.status).toBe(400);
    expect((await errorOf(response)).data.code).toBe(code);
  });

  test.each([
    ['no body and no type', undefined, {}],
    ['no body', undefined, bearer],
    ['an empty body', '', bearer],
    ['an empty object', '{}', bearer],
  ])('a call whose input may be left out is answered with %s', async (_, body, headers) => {
    const { authorization } = bearer;
    const init = { method: 'POST', headers: { authorization, ...headers }, ...(body !== undefined && { body }) };
    expect(await (await app().request('/trpc/idle', init)).json()).toEqual({ result: { data: { how: 'well' } } });
  });

  test.each([
    [
      'fields that are not known',
      { people: [], ...Object.fromEntries(Array.from({ length: 9_999 }, (_, n) => [n, n])) },
    ],
    ['a name without an end', { people: [], ['x'.repeat(100_000)]: 1 }],
    ['bad values', { people: Array.from({ length: 9_999 }, () => ({ age: '' })) }],
    ['more bad values than the stack holds', { people: Array.from({ length: 300_000 }, () => ({})) }],
  ])('an answer to %s is short', async (_, input) => {
    const init = { method: 'POST', headers: bearer, body: JSON.stringify(input) };
    const response = await app({ maxBodyBytes: 10_000_000 }).request('/trpc/crowd', init);
    const text = await response.text();
    expect([response.status, JSON.parse(text).error.data.code]).toEqual([400, 'INVALID_INPUT']);
    expect(text.length).toBeLessThan(10_000);
    expect(text).not.toContain('stack');
  });

  test('lists the first of many problems, and the number of the others', async () => {
    const ages = await post('/trpc/crowd', JSON.stringify({ people: Array.from({ length: 9 }, () => ({ age: '' })) }));
    expect((await errorOf(ages)).message).toMatch(/^people\.0\.age: .*; people\.4\.age: [^;]*; and 4 more$/);
    const names = await post('/trpc/crowd', '{"people":[],"a":1,"b":1,"c":1,"d":1,"e":1}');
    expect((await errorOf(names)).message).toBe('Unrecognized keys: "a", "b", "c" and 2 more');
  });

  test('says what to do about this error on this procedure', async () => {
    const action = (error: TallyError, path?: string) => errorShape(error, path).data.action;
    const unavailable = new TallyError('UNAVAILABLE', 'A data store is unavailable.');
    const recording = /^Nothing was acknowledged\..*counted once\.$/;
    for (const path of ['usage.record', 'usage.track']) expect(action(unavailable, path)).toMatch(recording);
    for (const path of [undefined, 'keys.create', 'usage.current', '/export/usage.csv'])
      expect(action(unavailable, path)).toBe('Try again after `Retry-After` seconds.');
    const { data } = await errorOf(await post('/trpc/fail', '{"how":"x","merchant":"acme"}'));
    expect(data).toMatchObject({
      action: 'Correct the fields named in `details` and send it again.',
      details: { fields: [{ field: 'merchant', message: 'Unrecognized key' }] },
    });
    const broken = await post('/trpc/fail', 'no gzip', { ...bearer, 'content-encoding': 'gzip' });
    expect((await errorOf(broken)).data).toMatchObject({
      code: 'INVALID_INPUT',
      action: 'Correct what the message names and send it again.',
    });
  });

  test('an unknown procedure is named, with the place where all are listed', async () => {
    for (const path of ['/trpc/nowhere', '/trpc/nowhere,fail?batch=1']) {
      const answer = (await (await post(path, '{}')).json()) as unknown;
      const { error } = (Array.isArray(answer) ? answer[0] : answer) as { error: { message: string } };
      expect(error.message).toMatch(/nowhere.*\/openapi\.json.*\/docs/);
    }
  });

  test('unknown paths, unknown procedures and the wrong method have their codes', async () => {
    expect(await errorOf(await post('/nowhere', '{}'))).toMatchObject({ data: { code: 'NOT_FOUND' } });
    expect(await errorOf(await post('/trpc/nowhere', '{}'))).toMatchObject({ data: { code: 'NOT_FOUND' } });
    expect(await errorOf(await app().request('/trpc/fail', { headers: bearer }))).toMatchObject({
      data: { code: 'METHOD_NOT_ALLOWED' },
    });
  });

  test('a question may be posted, since it may be longer than a URL', async () => {
    const response = await post('/trpc/greet.loudly', '{"name":"Ada"}');
    expect(await response.json()).toEqual({ result: { data: { text: 'HELLO Ada' } } });
  });

  test('liveness, readiness and metrics need no key', async () => {
    const service = app();
    expect((await service.request('/livez')).status).toBe(200);
    expect((await service.request('/readyz')).status).toBe(200);
    const metrics = await service.request('/metrics');
    expect(metrics.headers.get('content-type')).toContain('text/plain');
    service.stopAccepting();
    expect((await service.request('/readyz')).status).toBe(503);
  });
});

describe('a key that is bound to a merchant', () => {
  const ask = async (path: string, input: object, merchantId?: string) => {
    const response = await app(merchantId === undefined ? {} : { merchantId }).request(`/trpc/${path}`, {
      method: 'POST',
      headers: merchantId === undefined ? bearer : { ...bearer, authorization: 'Bearer a-key-that-is-bound' },
      body: JSON.stringify(input),
    });
    const { result, error } = (await response.json()) as {
      result?: { data: object };
      error?: { data: { code: string } };
    };
    return result?.data ?? error?.data.code;
  };

  test.each([
    ['one', {}, {}, { merchantId: 'acme' }],
    ['one', { merchantId: 'acme' }, { merchantId: 'acme' }, { merchantId: 'acme' }],
    ['one', { merchantId: 'globex' }, { merchantId: 'globex' }, 'MERCHANT_FORBIDDEN'],
    ['many', {}, {}, { merchantIds: ['acme'] }],
    ['many', { merchantIds: [] }, {}, { merchantIds: ['acme'] }],
    ['many', { merchantIds: ['acme', 'globex'] }, { merchantIds: ['acme', 'globex'] }, 'MERCHANT_FORBIDDEN'],
  ])('is kept to it by the input that the contract states: %s %j', async (path, input, unbound, bound) => {
    expect(await ask(path, input)).toEqual(unbound);
    expect(await ask(path, input, 'acme')).toEqual(bound);
  });
});
