import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { fetchWithin } from './fetch-within.ts';

let url: string;
const asked: IncomingMessage[] = [];
const server = createServer((request, response) => {
  asked.push(request);
  server.emit('asked', response);
  if (request.url !== '/hangs') response.end(JSON.stringify({ method: request.method, key: request.headers['x-key'] }));
});

beforeAll(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => void server.close().closeAllConnections());

const fetch = fetchWithin(20_000);

// The first of its file: undici keeps the clock that it finds.
test('a call may take all of its time, however long that is', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const call = fetchWithin(3_600_000)(`${url}/hangs`);
    const [response] = (await once(server, 'asked')) as [ServerResponse];
    await vi.advanceTimersByTimeAsync(3_500_000);
    response.end('{}');
    expect((await call).ok).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});

test.each([
  ['an object', { 'x-key': 'k' }],
  ['Headers', new Headers({ 'x-key': 'k' })],
  ['pairs', [['x-key', 'k']]],
] as [string, RequestInit['headers']][])('headers as %s are sent', async (_, headers) => {
  const answer = await fetch(url, { method: 'POST', headers, body: '{}' });
  expect([answer.ok, await answer.json()]).toEqual([true, { method: 'POST', key: 'k' }]);
});

test("a call ends with its caller's signal, and within its time", async () => {
  const left = new AbortController();
  const call = fetch(`${url}/hangs`, { signal: left.signal });
  left.abort(new Error('left'));
  await expect(call).rejects.toThrow('left');
  await expect(fetchWithin(50)(`${url}/hangs`)).rejects.toMatchObject({ name: 'TimeoutError' });
});

test('refuses options that it does not use', async () => {
  await expect(fetch(url, { method: 'POST', body: new Uint8Array(1) })).rejects.toThrow(TypeError);
  await expect(fetch(url, { redirect: 'manual' })).rejects.toThrow('redirect');
});
