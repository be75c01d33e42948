import { createEngineClient, createIngestClient } from '@tally/contracts/client';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ADMIN_KEY, type Stack, startStack } from './start.ts';

let stack: Stack;
let viewer: string;
let producer: string;

beforeAll(async () => {
  stack = await startStack();
  const ingest = createIngestClient({ url: stack.url, key: ADMIN_KEY });
  viewer = (await ingest.keys.create.mutate({ name: 'ann', role: 'viewer', merchantId: 'acme' })).key;
  producer = (await ingest.keys.create.mutate({ name: 'shop', role: 'producer' })).key;
});
afterAll(() => stack.stop());

const own = () => ({ origin: stack.url, 'sec-fetch-site': 'same-origin' });
type Headers = Record<string, string>;

/** Like a browser sends it; fetch does not allow its origin to be set. */
async function send(
  path: string,
  { method = 'POST', headers = {}, body }: { method?: string; headers?: Headers; body?: object } = {},
) {
  const answer = await request(stack.url + path, {
    method: method as 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await answer.body.text();
  // biome-ignore lint/suspicious/noExplicitAny: whatever was answered.
  const parsed: any = text.startsWith('{') ? JSON.parse(text) : text;
  return { status: answer.statusCode, headers: answer.headers, body: parsed };
}

const signIn = (key: string, headers: Headers = own()) => send('/session', { headers, body: { key } });
const cookieOf = (headers: Record<string, string | string[] | undefined>) =>
  String(headers['set-cookie']).split(';')[0]!;
const current = (headers: Headers) => send('/trpc/usage.current', { headers, body: { merchantId: 'acme' } });
const signedIn = async () => ({ cookie: cookieOf((await signIn(viewer)).headers) });

describe('signing in', () => {
  test('exchanges a key for a cookie that scripts cannot read, and never shows a secret', async () => {
    const { status, headers, body } = await signIn(viewer);
    expect(status).toBe(200);
    expect(headers['set-cookie']).toMatch(
      /^tally_session=[\w-]+; Path=\/; HttpOnly; SameSite=Strict; Max-Age=43\d{3}$/,
    );
    expect(headers['cache-control']).toBe('no-store');
    expect(body).toMatchObject({ name: 'ann', role: 'viewer', merchantId: 'acme' });
    expect(JSON.stringify(body)).not.toMatch(/tally_/);
    expect(cookieOf(headers)).not.toContain(viewer);
  });

  test.each([
    ['an unknown key', () => 'tally_viewer_nobody', 401, 'UNAUTHORIZED'],
    ['a key that may not read', () => producer, 403, 'FORBIDDEN'],
    ['no key', () => '', 400, 'INVALID_INPUT'],
    ['what is no key', () => 'a key with spaces', 400, 'INVALID_INPUT'],
  ])('refuses %s', async (_name, key, status, code) => {
    const answer = await signIn(key());
    expect([answer.status, answer.body.error.data.code]).toEqual([status, code]);
    expect(answer.headers['set-cookie']).toBeUndefined();
  });

  test('is refused to other sites, and where nothing says which site it is', async () => {
    for (const headers of [
      { origin: 'https://evil.example' },
      { origin: 'null' },
      { ...own(), 'sec-fetch-site': 'cross-site' },
      { ...own(), 'sec-fetch-site': 'same-site' },
      {},
    ])
      expect((await signIn(viewer, headers as Headers)).status).toBe(403);
  });
});

describe('a session', () => {
  test('is shown to every service', async () => {
    const headers = { ...own(), ...(await signedIn()) };
    expect((await current(headers)).status).toBe(200);
    const day = new Date().toISOString().slice(0, 10);
    const summary = await send('/trpc/analytics.summary', { headers, body: { startDate: day, endDate: day } });
    expect(summary.status).toBe(200);
    expect((await send('/trpc/realtime.list', { method: 'GET', headers })).status).toBe(200);
    const file = await send(`/export/usage.csv?startDate=${day}&endDate=${day}`, { method: 'GET', headers });
    expect(file.status).toBe(200);
  });

  test('is of no use to other sites, on other ports of the same host neither', async () => {
    const cookie = await signedIn();
    for (const headers of [
      { origin: 'https://evil.example' },
      { origin: 'http://127.0.0.1:9999', 'sec-fetch-site': 'same-site' },
      { 'sec-fetch-site': 'cross-site' },
      {},
    ]) {
      const answer = await current({ ...cookie, ...(headers as Headers) });
      expect([answer.status, answer.body.error.data.code]).toEqual([401, 'UNAUTHORIZED']);
    }
  });

  test('stays within the merchant of its key', async () => {
    const headers = { ...own(), ...(await signedIn()) };
    const answer = await send('/trpc/usage.current', { headers, body: { merchantId: 'globex' } });
    expect(answer.body.error.data.code).toBe('MERCHANT_FORBIDDEN');
  });

  test('gives way to a key that is shown beside it', async () => {
    const headers = { ...own(), ...(await signedIn()), authorization: `Bearer ${ADMIN_KEY}` };
    expect((await send('/trpc/keys.list', { headers, body: {} })).status).toBe(200);
  });

  test('ends when it is ended, and its cookie with it', async () => {
    const headers = { ...own(), ...(await signedIn()) };
    expect(
      (await send('/session', { method: 'DELETE', headers: { ...headers, 'sec-fetch-site': 'cross-site' } })).status,
    ).toBe(403);
    const ended = await send('/session', { method: 'DELETE', headers });
    expect(ended.headers['set-cookie']).toMatch(/^tally_session=; .*Max-Age=0/);
    await expect.poll(async () => (await current(headers)).status).toBe(401);
  });

  test.each([
    ['the first proxy says so', () => ({ ...own(), 'x-forwarded-proto': 'https, http' })],
    ['its page has such an address', () => ({ origin: own().origin.replace('http:', 'https:') })],
  ])('is for HTTPS and this host only where %s', async (_how, headersOf) => {
    const headers = headersOf();
    const answer = await signIn(viewer, headers);
    expect(answer.headers['set-cookie']).toMatch(/^__Host-tally_session=[\w-]+; Path=\/; .*; Secure$/);
    const cookie = cookieOf(answer.headers);
    expect((await current({ ...headers, cookie })).status).toBe(200);
    const planted = { ...headers, ...(await signedIn()) };
    expect((await current(planted)).status).toBe(401);
    const ended = await send('/session', { method: 'DELETE', headers: { ...headers, cookie } });
    expect(ended.headers['set-cookie']).toMatch(/^__Host-tally_session=; .*Max-Age=0; Secure$/);
  });
});

test('refuses methods other than POST and DELETE', async () => {
  expect((await send('/session', { method: 'PUT', headers: own() })).status).toBe(405);
});

test.each(['its key is revoked', 'it is signed out'])(
  'a subscription ends when %s',
  async (how) => {
    const ingest = createIngestClient({ url: stack.url, key: ADMIN_KEY });
    const { id, key } = await ingest.keys.create.mutate({ name: how, role: 'viewer', merchantId: 'acme' });
    const cookie = cookieOf((await signIn(key)).headers);
    const engine = createEngineClient({ url: stack.url, key: ADMIN_KEY });
    await engine.realtime.increment.mutate({ name: 'a.counter', merchantId: 'acme' });
    const input = encodeURIComponent(JSON.stringify({ name: 'a.counter' }));
    const answer = await request(`${stack.url}/trpc/realtime.watch?input=${input}`, {
      headers: { ...own(), cookie, accept: 'text/event-stream' },
      // The counter does not change: nothing is sent for a long time.
      bodyTimeout: 0,
    });
    expect(answer.statusCode).toBe(200);
    if (how === 'it is signed out') await send('/session', { method: 'DELETE', headers: { ...own(), cookie } });
    else await ingest.keys.revoke.mutate({ id });
    await expect(answer.body.text()).rejects.toThrow();
  },
  120_000,
);
