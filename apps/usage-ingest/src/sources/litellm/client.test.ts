import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type FakeLitellm, startFakeLitellm } from '../../../test/fake-litellm.ts';
import { createLitellmClient } from './client.ts';

const KEY = 'sk-the-master-key';
let litellm: FakeLitellm;

beforeAll(async () => {
  litellm = await startFakeLitellm(KEY);
});
beforeEach(() => litellm.reset());
afterAll(() => litellm?.stop());

const ROW = { request_id: 'a', startTime: '2026-11-22T10:00:00Z' };
const PAGE = {
  start: Date.parse('2026-11-22T00:00:00Z'),
  end: Date.parse('2026-11-23T00:00:00Z'),
  page: 1,
  pageSize: 100,
  order: 'asc',
} as const;
const options = () => ({ url: litellm.url, key: KEY, timeoutMs: 60_000, maxBodyBytes: 1_000_000, backoffMs: 0 });
const ask = (more: object = {}) =>
  createLitellmClient({ ...options(), ...more }).spendLogs(PAGE, new AbortController().signal);

test('retries after 429, 5xx, an answer that is too slow and a connection that breaks', async () => {
  litellm.rows = [ROW];
  const deadlines: AbortController[] = [];
  const deadline = () => {
    const controller = new AbortController();
    deadlines.push(controller);
    return controller.signal;
  };
  const troubles = [
    { status: 429, body: '{"error":{"message":"Rate limit","code":"429"}}', headers: { 'retry-after': '0' } },
    { status: 503, body: 'upstream connect error' },
    'silent',
    'broken',
  ] as const;
  litellm.before = () => {
    const trouble = troubles[deadlines.length - 1];
    // The time is up as soon as the request has arrived.
    if (trouble === 'silent') deadlines.at(-1)!.abort(new DOMException('too slow', 'TimeoutError'));
    return trouble;
  };
  expect(await ask({ deadline })).toMatchObject({ rows: [{ request_id: 'a' }], total: 1 });
  expect(deadlines).toHaveLength(5);
});

test('gives up after six attempts, and never repeats what LiteLLM rejects', async () => {
  litellm.before = () => ({ status: 503, body: 'down' });
  await expect(ask()).rejects.toMatchObject({ code: 'SOURCE_AWAY', message: 'LiteLLM answered 503: "down"' });
  expect(litellm.asked).toHaveLength(6);
  litellm.asked = [];
  await expect(ask({ key: 'sk-another' })).rejects.toMatchObject({
    code: 'SOURCE_REFUSED',
    message: expect.stringMatching(/^LiteLLM rejected our credentials \(401\): /),
  });
  litellm.before = () => ({ status: 403, body: 'no' });
  await expect(ask()).rejects.toMatchObject({ message: 'LiteLLM rejected our credentials (403): "no"' });
  expect(litellm.asked).toHaveLength(1);
});
