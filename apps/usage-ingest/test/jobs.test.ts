import { createIngestClient } from '@tally/contracts/client';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { runCommand } from '../src/jobs/command.ts';
import { handler } from '../src/jobs/lambda.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest();
  await ingest.admin.usage.record.mutate({
    entries: [{ id: 'a', merchantId: 'acme', time: '2026-11-21T10:00:00Z', metrics: { queries: '3' } }],
  });
});
afterAll(() => ingest.close());

async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const lines = { out: [] as string[], err: [] as string[] };
  const output = {
    log: (line: string) => void lines.out.push(line),
    error: (line: string) => void lines.err.push(line),
    now: () => ingest.clock.now,
  };
  const code = await runCommand(args, ingest.admin, output);
  return { code, out: lines.out.join('\n'), err: lines.err.join('\n') };
}

test('the job counts yesterday, and says how much', async () => {
  expect(await run('aggregate')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^2026-11-21: 2 keys found, 1 records aggregated, 0 errors/),
  });
  expect(await run('aggregate-date', '2026-11-21')).toMatchObject({
    code: 0,
    out: expect.stringContaining('0 records aggregated'),
  });
});

test.each(['rebuild', 'aggregate-range'])('%s ends when its service is killed: no timer goes on', async (command) => {
  const killed = () => Promise.reject(new TypeError('fetch failed'));
  const client = createIngestClient({ url: ingest.databaseUrl, key: '', fetch: killed });
  vi.useFakeTimers();
  try {
    const output = { log() {}, error() {}, now: () => ingest.clock.now };
    await expect(runCommand([command, '2026-11-20', '2026-11-21'], client, output)).rejects.toThrow('fetch failed');
    expect(vi.getTimerCount()).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});

test('ranges, merchants, the status and the books have their commands', async () => {
  expect(await run('aggregate-range', '2026-11-20', '2026-11-21')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/2026-11-20: .*\n2026-11-21: /),
  });
  expect(await run('aggregate-merchant', 'acme', '2026-11-21')).toMatchObject({
    code: 0,
    out: expect.stringContaining('merchant acme: 2 keys'),
  });
  expect(await run('status', '2026-11-21')).toMatchObject({ code: 0, out: expect.stringMatching(/aggregated +true/) });
  expect(await run('reconcile')).toMatchObject({ code: 0, out: expect.stringContaining('every stored form agrees') });
  expect(await run('rebuild', '2026-10-30', '2026-11-21')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^\d+ days of merchants rebuilt, 0 of them without their entries$/),
  });
  expect(await run('reconcile', '2026-11-21', '2026-11-21')).toMatchObject({
    code: 0,
    out: expect.stringContaining('2026-11-21 to 2026-11-21'),
  });
});

test('erasing a user says so if no event has it', async () => {
  await ingest.admin.usage.record.mutate({
    entries: [{ id: 'of-ada', merchantId: 'acme', userId: 'ada', metrics: {} }],
  });
  const none = /\nNo event had this user: check both ids/;
  expect((await run('erase-user', 'acme', 'Ada Okafor')).out).toMatch(none);
  expect((await run('erase-user', 'acme', 'ada')).out).toMatch(/^1 events renamed to \S+; nothing is left$/);
});

test('drain flushes all that waits, and fails while something still does', async () => {
  const record = (id: string) =>
    ingest.admin.usage.record.mutate({
      entries: [{ id, merchantId: 'drained', time: '2026-11-21T10:00:00Z', metrics: { queries: '3' } }],
    });
  await record('a');
  expect(await run('drain')).toMatchObject({ code: 0, out: '1 events flushed, 0 merchants with events waiting' });
  const redis = ingest.redis as Redis;
  await redis.sadd('usage:pending', 'drained');
  await redis.xadd('usage:{drained}:journal', '*', 'batch', 'b', 'count', '1', 'days', '2026-11-21', 'lines', 'broken');
  expect(await run('drain')).toMatchObject({ code: 1, out: '0 events flushed, 1 merchants with events waiting' });
  await redis.del('usage:{drained}:journal', 'usage:pending');
});

test('books that differ are an exit code of 1, with the numbers', async () => {
  await ingest.redis.incrby('usage:acme:2026-11-21:queries', 1);
  expect(await run('reconcile')).toMatchObject({ code: 1, err: expect.stringContaining('"live":"4"') });
  await ingest.redis.decrby('usage:acme:2026-11-21:queries', 1);
});

test.each([
  [[]],
  [['aggregate-date']],
  [['aggregate-date', '2026-02-30']],
  [['aggregate-range', '2026-11-02', '2026-11-01']],
  [['fly']],
  [['aggregate', '2026-11-21']],
  [['aggregate-date', '2026-11-20', '2026-11-21']],
  [['aggregate-range', '2026-11-20']],
  [['aggregate-range', '2026-11-20', '2026-11-21', '2026-11-22']],
  [['aggregate-range', 'x', '2026-11-20', '2026-11-21']],
  [['aggregate-merchant']],
  [['aggregate-merchant', 'acme', '2026-11-21', '2026-11-22']],
  [['status', '2026-11-21', '2026-11-22']],
  [['status', 'today']],
  [['reconcile', '2026-02-30', '2026-11-21']],
  [['reconcile', '2026-11-21']],
  [['reconcile', '2026-11-22', '2026-11-21']],
  [['rebuild', '2026-11-21']],
  [['scheduler', 'now']],
  [['drain', 'now']],
])('what is not understood (%j) is answered by the usage and 1', async (args) => {
  expect(await run(...args)).toMatchObject({ code: 1, out: '', err: expect.stringContaining('Usage:') });
});

test.each<[reason: RegExp, args: string[]]>([
  [/^2026-13-01 is not a day: write YYYY-MM-DD\.\n/, ['aggregate-date', '2026-13-01']],
  [/^2026-11-22 is after 2026-11-21: write the earlier day first\.\n/, ['rebuild', '2026-11-22', '2026-11-21']],
])('says what is wrong with days: %s', async (reason, args) => {
  expect(await run(...args)).toMatchObject({ code: 1, err: expect.stringMatching(reason) });
});

test('the Lambda handler answers 500 where the service is unavailable', async () => {
  vi.stubEnv('USAGE_INGEST_URL', 'http://127.0.0.1:1');
  const { statusCode, body } = await handler();
  vi.unstubAllEnvs();
  expect(statusCode).toBe(500);
  expect(JSON.parse(body)).toMatchObject({ success: false });
});
