import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { build } from 'esbuild';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Rejected, TallyOptions } from './options.ts';
import { createSpool, type SpoolPromise } from './spool/index.ts';
import { createTally } from './tally.ts';
import { type Fault, faultyFetch } from './testing/faults.ts';
import { ADMIN_KEY, startIngest } from './testing/service.ts';

let ingest: Awaited<ReturnType<typeof startIngest>>;
let home: string;
let shortLived: string;
let merchants = 0;
const children: ChildProcess[] = [];

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-client-'));
  shortLived = await bundle(new URL('./testing/short-lived.ts', import.meta.url));
  ingest = await startIngest({ MAX_BODY_BYTES: '200000' });
});
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  await ingest?.drop();
  await rm(home, { recursive: true, force: true });
});

const newMerchant = () => `merchant-${merchants++}`;

/** Bundles a script so that it runs as a process of its own. */
async function bundle(script: URL): Promise<string> {
  const outfile = join(home, `${basename(script.pathname, '.ts')}.mjs`);
  await build({
    entryPoints: [script.pathname],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    conditions: ['source'],
    logLevel: 'silent',
  });
  return outfile;
}

function open(options: Partial<TallyOptions> = {}) {
  const rejected: Rejected[] = [];
  const errors: string[] = [];
  const tally = createTally({
    url: ingest.url,
    key: ADMIN_KEY,
    hooks: false,
    lingerMs: 5,
    backoff: { firstMs: 5, mostMs: 40, slowMs: 20 },
    onRejected: (each) => rejected.push(each),
    onError: ({ code }) => errors.push(code),
    ...options,
  });
  return { tally, rejected, errors };
}

describe('delivery', () => {
  test('counts what was recorded, merged or not, and what was tracked', async () => {
    const merchantId = newMerchant();
    for (const merge of [true, false]) {
      const { tally, rejected } = open({ merge, timeoutMs: 60_000 });
      for (let each = 0; each < 1500; each++) {
        tally.record({ merchantId, model: `m${each % 3}`, metrics: { prompt_tokens: 10, cost: '0.000000003' } });
        tally.track({ merchantId, metricType: 'queries', by: 2 });
      }
      tally.record({ merchantId, status: 'failure', metrics: {} });
      expect(await tally.flush()).toEqual({ ok: true, queued: 0 });
      const stats = tally.stats();
      expect(stats).toMatchObject({ recorded: 3001, sent: 3001, refused: 0, rejected: 0, queued: 0 });
      // Counters go 20 at a time.
      expect(stats.requests).toBe(merge ? 2 : 2 + 75);
      expect(stats.merged + stats.sentEntries).toBe(3001);
      expect(await tally.close()).toEqual({ ok: true, spooled: 0, unsent: 0 });
      expect(rejected).toEqual([]);
    }
    expect(await ingest.counted(merchantId)).toEqual({
      requests: '3002',
      failed_requests: '2',
      prompt_tokens: '30000',
      cost: '9000',
      queries: '6000',
    });
  });

  test('counts fractions of a metric type by the scale of its meter, exactly', async () => {
    const merchantId = newMerchant();
    const admin = open().tally;
    await admin.ingest.meters.create.mutate({
      key: 'audio_minutes',
      aggregation: 'SUM',
      metricType: 'audio_minutes',
      scale: 3,
    });
    const { rows } = await admin.ingest.meters.list.query();
    const scales = Object.fromEntries(rows.flatMap((row) => (row.metricType ? [[row.metricType, row.scale]] : [])));
    const { tally, rejected } = open({ scales });
    for (let each = 0; each < 1000; each++) {
      tally.record({ merchantId, metrics: { audio_minutes: '0.1' } });
      tally.track({ merchantId, metricType: 'audio_minutes', by: '0.001' });
    }
    expect(tally.record({ merchantId, metrics: { audio_minutes: '0.0001' } })).toMatchObject({ code: 'INVALID_ENTRY' });
    await Promise.all([admin.close(), tally.close()]);
    expect(rejected).toEqual([]);
    const { metrics } = await tally.ingest.usage.current.query({ merchantId });
    expect(metrics).toMatchObject({ requests: '1000', audio_minutes: '101' });
  });

  test('loses and doubles nothing over random failures of the way', async () => {
    const fault = fc.constantFrom<Fault>('none', 'no way there', 'answer lost', 'busy', 'slow', 'not tally');
    const step = fc.record({ records: fc.integer({ min: 0, max: 40 }), own: fc.boolean(), flush: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fault, { maxLength: 12 }),
        fc.array(step, { minLength: 1, maxLength: 6 }),
        async (faults, steps) => {
          const merchantId = newMerchant();
          const way = faultyFetch((request) => faults[request] ?? 'none');
          const { tally, rejected } = open({ fetch: way, timeoutMs: 500, maxBatch: 7 });
          let records = 0;
          for (const { records: some, own, flush } of steps) {
            for (let each = 0; each < some; each++) {
              const id = own ? `own-${records}` : undefined;
              tally.record({ id, merchantId, userId: `u${records % 11}`, metrics: { prompt_tokens: 1 } });
              tally.track({ id: id && `t-${id}`, merchantId, metricType: 'queries' });
              records++;
            }
            if (flush) await tally.flush();
          }
          expect(await tally.close({ deadlineMs: 120_000 })).toMatchObject({ ok: true });
          expect(rejected).toEqual([]);
          const total = String(records);
          const expected = records === 0 ? {} : { requests: total, prompt_tokens: total, queries: total };
          expect(await ingest.counted(merchantId)).toEqual(expected);
        },
      ),
      { numRuns: 10 },
    );
  });

  test('counts once what a killed server had taken, and keeps merging while it is unavailable', async () => {
    const merchantId = newMerchant();
    const { tally } = open({ fetch: faultyFetch((request) => (request === 0 ? 'answer lost' : 'none')) });
    tally.record({ merchantId, metrics: { prompt_tokens: 1 } });
    await tally.flush({ deadlineMs: 50 });
    await ingest.kill();
    for (let each = 0; each < 5000; each++) {
      expect(tally.record({ merchantId, metrics: { prompt_tokens: 1 } }).ok).toBe(true);
      if (each % 1000 === 0) await tally.flush({ deadlineMs: 1 });
    }
    const { queued } = tally.stats();
    expect(queued).toBeLessThanOrEqual(8);
    await ingest.start();
    expect(await tally.flush()).toMatchObject({ ok: true });
    await tally.close();
    expect(await ingest.counted(merchantId)).toEqual({ requests: '5001', prompt_tokens: '5001' });
  });

  test('splits what is too large, and rejects only what is too large alone', async () => {
    const merchantId = newMerchant();
    const { tally, rejected } = open({ maxBatchBytes: 2 ** 22 });
    const text = 'x'.repeat(500);
    const properties = Object.fromEntries(Array.from({ length: 10 }, (_, each) => [`p${each}`, text]));
    for (let each = 0; each < 100; each++) tally.record({ id: `big-${each}`, merchantId, metrics: {}, properties });
    expect(await tally.flush()).toMatchObject({ ok: true });
    expect(rejected).toEqual([]);
    expect(tally.stats().requests).toBeGreaterThan(2);
    await tally.close();
    expect(await ingest.counted(merchantId)).toEqual({ requests: '100' });
  });

  test('hands what the server refuses to the callback, and sends the rest', async () => {
    const merchantId = newMerchant();
    const { tally, rejected } = open();
    tally.record({ merchantId, time: '2020-01-01T00:00:00Z', metrics: { prompt_tokens: 1 } });
    tally.record({ merchantId, time: '2020-01-01T00:00:00Z', metrics: { prompt_tokens: 1 } });
    tally.track({ merchantId, metricType: 'queries', time: Date.now() + 3_600_000 });
    tally.record({ merchantId, metrics: { prompt_tokens: 5 } });
    await tally.close();
    expect(rejected.sort((a, b) => b.code.localeCompare(a.code))).toMatchObject([
      { code: 'TIME_TOO_OLD', records: 2, entry: { merchantId, count: 2, metrics: { prompt_tokens: '2' } } },
      { code: 'TIME_IN_FUTURE', records: 1, entry: { merchantId, metricType: 'queries', by: '1' } },
    ]);
    expect(tally.stats()).toMatchObject({ sent: 1, rejected: 3 });
    expect(await ingest.counted(merchantId)).toEqual({ requests: '1', prompt_tokens: '5' });
  });

  test('reports a failure that goes on once, however often a closing client tries', async () => {
    const merchantId = newMerchant();
    const [failing, again] = [30, 30];
    let requests = 0;
    const way: typeof fetch = (input, init) =>
      ++requests <= failing || (requests > failing + 1 && requests <= failing + 1 + again)
        ? fetch('http://127.0.0.1:1', init)
        : fetch(input, init);
    const { tally, errors } = open({ fetch: way, backoff: { firstMs: 1, mostMs: 5 } });
    tally.record({ merchantId, metrics: {} });
    expect(await tally.flush({ deadlineMs: 120_000 })).toMatchObject({ ok: true });
    expect([requests, errors]).toEqual([failing + 1, ['NO_ANSWER']]);
    tally.record({ merchantId, metrics: {} });
    expect(await tally.close({ deadlineMs: 120_000 })).toMatchObject({ ok: true });
    expect([requests, errors]).toEqual([failing + again + 2, ['NO_ANSWER', 'NO_ANSWER']]);
  });

  test('keeps entries while the key is wrong, or rejects them where that is wanted', async () => {
    const merchantId = newMerchant();
    let key = 'wrong';
    const way: typeof fetch = (input, init) =>
      fetch(input, { ...init, headers: { ...init?.headers, authorization: `Bearer ${key}` } });
    // No retry of its own is in flight when it is closed, so the last try has the correct key.
    const kept = open({ fetch: way, backoff: { firstMs: 5, mostMs: 40, slowMs: 600_000 } });
    kept.tally.record({ merchantId, metrics: {} });
    await vi.waitFor(() => expect(kept.errors).toContain('UNAUTHORIZED'), { timeout: 60_000 });
    expect(await kept.tally.flush({ deadlineMs: 100 })).toEqual({ ok: false, queued: 1 });
    const given = open({ key: 'wrong', authFailure: 'reject' });
    given.tally.record({ merchantId, metrics: {} });
    await given.tally.close();
    expect(given.rejected).toMatchObject([{ code: 'UNAUTHORIZED', records: 1 }]);
    key = ADMIN_KEY;
    expect(await kept.tally.close()).toMatchObject({ ok: true });
    expect(await ingest.counted(merchantId)).toEqual({ requests: '1' });
  });

  test('asks once with a rejected key, in flush and in close', async () => {
    const merchantId = newMerchant();
    const refused = { key: 'wrong', backoff: {}, closeDeadlineMs: 20_000 };
    const { tally, errors, rejected } = open(refused);
    for (const userId of ['u1', 'u2']) {
      tally.record({ merchantId, userId, metrics: {} });
      await tally.flush({ deadlineMs: 20_000 });
    }
    expect(tally.stats()).toMatchObject({ requests: 1, queued: 2 });
    expect(await tally.close()).toEqual({ ok: false, spooled: 0, unsent: 2 });
    expect(tally.stats().requests).toBe(2);
    expect(errors).toEqual(['UNAUTHORIZED', 'UNAUTHORIZED']);
    expect(rejected.map(({ code }) => code)).toEqual(['UNSENT', 'UNSENT']);

    const directory = join(home, 'rejected-key');
    const spooled = open({ ...refused, spool: createSpool({ directory }) });
    spooled.tally.record({ merchantId, metrics: {} });
    expect(await spooled.tally.close()).toEqual({ ok: false, spooled: 1, unsent: 0 });
    expect(spooled.tally.stats().requests).toBe(1);
    const next = open({ spool: createSpool({ directory }) });
    expect(await next.tally.close()).toMatchObject({ ok: true });
    expect(await ingest.counted(merchantId)).toEqual({ requests: '1' });
  });

  test('waits as long as Retry-After says', async () => {
    const times: number[] = [];
    const way = faultyFetch();
    const { tally } = open({
      fetch: async (input, init) => {
        times.push(performance.now());
        if (times.length > 1) return way(input, init);
        return new Response('{}', { status: 429, headers: { 'retry-after': '1' } });
      },
    });
    tally.record({ merchantId: newMerchant(), metrics: {} });
    expect(await tally.close()).toMatchObject({ ok: true });
    expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(990);
  });

  test('refuses when its queue is full, with a bounded memory, and drops nothing it took', async () => {
    const merchantId = newMerchant();
    let fault: Fault = 'no way there';
    const { tally } = open({ fetch: faultyFetch(() => fault), maxQueuedEntries: 50 });
    const answers = Array.from({ length: 80 }, (_, each) =>
      tally.record({ merchantId, userId: `u${each}`, metrics: {} }),
    );
    expect(answers.filter(({ ok }) => ok)).toHaveLength(50);
    expect(answers.at(-1)).toMatchObject({ ok: false, code: 'QUEUE_FULL' });
    expect(tally.record({ merchantId, userId: 'u0', metrics: {} }).ok).toBe(true);
    fault = 'none';
    await tally.close();
    expect(await ingest.counted(merchantId)).toEqual({ requests: '51' });
  });

  test('never throws, whatever it is given', () => {
    const { tally } = open();
    const trap = new Proxy(
      {},
      {
        get: () => {
          throw new Error('trap');
        },
      },
    );
    for (const bad of [
      undefined,
      null,
      1,
      'x',
      {},
      [],
      trap,
      { merchantId: 5, metrics: 5 },
      { merchantId: 'm', metrics: trap },
    ]) {
      if (typeof bad !== 'object' || !('metrics' in (bad ?? {})) || (bad as { metrics: unknown }).metrics === 5) {
        expect(tally.record(bad as never)).toMatchObject({ ok: false, code: 'INVALID_ENTRY' });
      } else expect(() => tally.record(bad as never)).not.toThrow();
      expect(tally.track(bad as never)).toMatchObject({ ok: false, code: 'INVALID_ENTRY' });
    }
  });

  test('says what is wrong with an entry that cannot be read', () => {
    const { tally } = open();
    const said = (bad: object) => (tally.record(bad as never) as { message?: string }).message;
    expect(said({ merchant: 'acme', metrics: {} })).toBe('merchant: an entry has no such field.');
    expect(said({ metrics: {} })).toMatch(/^merchantId: Expected /);
    expect(said({ merchantId: 'acme' })).toMatch(/^metrics: Expected /);
    expect(said({ merchantId: 'acme', metrics: { promptTokens: 1 } })).toMatch(/^metrics.promptTokens: .*lower-case/);
    expect(tally.track({ merchantId: 'acme' } as never)).toMatchObject({
      message: expect.stringMatching(/lower-case/),
    });
  });

  test('takes nothing after close, and closes once', async () => {
    const { tally } = open();
    const closing = tally.close();
    expect(tally.close()).toBe(closing);
    expect(tally.record({ merchantId: 'm', metrics: {} })).toMatchObject({ ok: false, code: 'CLOSED' });
    await closing;
  });

  test('without a spool hands back what a deadline leaves unsent', async () => {
    const { tally, rejected } = open({ fetch: faultyFetch(() => 'no way there') });
    tally.record({ merchantId: 'm', metrics: {} });
    tally.track({ merchantId: 'm', metricType: 'queries' });
    expect(await tally.close({ deadlineMs: 30 })).toEqual({ ok: false, spooled: 0, unsent: 2 });
    expect(rejected.map(({ code, records }) => [code, records])).toEqual([
      ['UNSENT', 1],
      ['UNSENT', 1],
    ]);
  });

  test('reaches the services through typed clients', async () => {
    const merchantId = newMerchant();
    const { tally } = open();
    tally.record({ merchantId, metrics: { prompt_tokens: 4 } });
    await tally.close();
    const { metrics } = await tally.ingest.usage.current.query({ merchantId });
    expect(metrics).toMatchObject({ requests: '1', prompt_tokens: '4' });
  });
});

describe('with a spool', () => {
  const spoolOf = (promise: SpoolPromise, more = {}) => ({
    directory: join(home, `spool-${merchants}`),
    promise,
    ...more,
  });

  test.each(['record', 'batch', 'overflow'] as const)('the next process sends what close left: %s', async (promise) => {
    const merchantId = newMerchant();
    const options = spoolOf(promise, { segmentBytes: 2000 });
    const first = open({ spool: createSpool(options), fetch: faultyFetch(() => 'answer lost') });
    for (let each = 0; each < 300; each++) {
      first.tally.record({ merchantId, userId: `u${each % 50}`, metrics: { prompt_tokens: 2n } });
      first.tally.track({ merchantId, metricType: 'queries' });
    }
    expect(await first.tally.close({ deadlineMs: 50 })).toEqual({ ok: false, spooled: 51, unsent: 0 });
    expect(first.rejected).toEqual([]);
    const second = open({ spool: createSpool(options) });
    expect(await second.tally.close()).toMatchObject({ ok: true });
    expect(second.tally.stats()).toMatchObject({ recovered: 51, sent: 600 });
    expect(await ingest.counted(merchantId)).toEqual({ requests: '300', prompt_tokens: '600', queries: '300' });
    const third = createSpool(options);
    expect([third.left.batches, third.left.records]).toEqual([[], []]);
    third.close();
    expect((await readdir(options.directory)).length).toBeLessThanOrEqual(2);
  });

  test('overflows to disk when memory is full, and refuses when the disk bound is reached', async () => {
    const merchantId = newMerchant();
    let fault: Fault = 'no way there';
    const spool = createSpool(spoolOf('overflow', { maxBytes: 40_000 }));
    const { tally } = open({ spool, fetch: faultyFetch(() => fault), maxQueuedEntries: 20, maxBatch: 10 });
    let taken = 0;
    while (tally.record({ merchantId, userId: `u${taken}`, metrics: {} }).ok) taken++;
    expect(taken).toBeGreaterThan(100);
    expect(spool.bytes).toBeLessThan(45_000);
    expect(tally.record({ merchantId, userId: 'one more', metrics: {} })).toMatchObject({ code: 'QUEUE_FULL' });
    fault = 'none';
    expect(await tally.close()).toMatchObject({ ok: true });
    expect(await ingest.counted(merchantId)).toEqual({ requests: String(taken) });
  });

  test('refuses a directory that a living process holds', () => {
    const options = spoolOf('batch');
    const spool = createSpool(options);
    expect(() => createSpool(options)).toThrow(/in use by process/);
    spool.close();
    createSpool(options).close();
  });

  /** Runs a process that records 500 events and a counter, then ends. Returns its exit and the lines it printed. */
  async function runShortLived(merchantId: string, directory: string, promise: string, end: string) {
    const args = [shortLived, ingest.url, ADMIN_KEY, merchantId, directory, promise, end];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    children.push(child);
    const exited = once(child, 'exit');
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      lines.push(line);
      if (line === 'recorded' && end.endsWith('signal')) child.kill('SIGTERM');
    }
    return { exit: await exited, lines };
  }
  const all = { requests: '500', queries: '1' };

  test.each([
    ['idle', [0, null]],
    ['signal', [null, 'SIGTERM']],
  ])('a process without a spool has sent all it recorded when it ends: %s', async (end, exits) => {
    const merchantId = newMerchant();
    expect(await runShortLived(merchantId, '', '', end)).toEqual({ exit: exits, lines: ['recorded'] });
    expect(await ingest.counted(merchantId)).toEqual(all);
  });

  test.each([
    ['batch', 'exit', 3],
    ['batch', 'exit at signal', 3],
    ['batch', 'exit in close', 3],
    ['batch', 'uncaught', 1],
    ['batch', 'rejection', 1],
    ['overflow', 'exit in close', 3],
    ['overflow', 'uncaught', 1],
    ['record', 'exit at signal', 3],
  ] as const)('a spool (%s) keeps what a process recorded that ends at once: %s', async (promise, end, code) => {
    const merchantId = newMerchant();
    const { directory } = spoolOf(promise);
    const ended = await runShortLived(merchantId, directory, promise, end);
    expect(ended).toEqual({ exit: [code, null], lines: ['recorded'] });
    const next = open({ spool: createSpool({ directory, promise }) });
    expect(await next.tally.close()).toMatchObject({ ok: true });
    expect(await ingest.counted(merchantId)).toEqual(all);
  });

  test.each(['exit', 'uncaught'])('a process without a spool names what it loses when it ends: %s', async (end) => {
    const merchantId = newMerchant();
    const { lines } = await runShortLived(merchantId, '', '', end);
    const records = lines.slice(1).map((line) => /^UNSENT (\d+)$/.exec(line)?.[1]);
    expect(records).toHaveLength(10);
    expect(records.reduce((sum, each) => sum + Number(each), 0)).toBe(501);
    expect(await ingest.counted(merchantId)).toEqual({});
  });

  test('a producer killed at any moment doubles nothing, and loses no more than its spool says', async () => {
    const producer = await bundle(new URL('./testing/producer.ts', import.meta.url));
    const moment = fc.record({
      lines: fc.integer({ min: 1, max: 40 }),
      perTurn: fc.integer({ min: 1, max: 200 }),
      killServer: fc.boolean(),
      promise: fc.constantFrom<SpoolPromise>('record', 'record', 'batch', 'overflow'),
    });
    await fc.assert(
      fc.asyncProperty(moment, async ({ lines, perTurn, killServer, promise }) => {
        const merchantId = newMerchant();
        const { directory } = spoolOf(promise);
        const run = (records: number) => {
          const args = [producer, ingest.url, ADMIN_KEY, merchantId, directory, promise, String(records)];
          const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
          children.push(child);
          return child;
        };
        const child = run(perTurn);
        const exited = once(child, 'exit');
        let taken = 0;
        let seen = 0;
        for await (const line of createInterface({ input: child.stdout })) {
          taken = Number(line);
          seen++;
          if (seen === lines >> 1 && killServer) await ingest.kill();
          if (seen === lines) child.kill('SIGKILL');
        }
        await exited;
        if (killServer) await ingest.start();
        let report = '';
        for await (const line of createInterface({ input: run(0).stdout })) report = line;
        expect(JSON.parse(report)).toMatchObject({ ok: true });
        const { requests = '0', prompt_tokens = '0', cost = '0' } = await ingest.counted(merchantId);
        // The turn in flight when it was killed was recorded too, although no result was reported.
        if (promise === 'record') expect(Number(requests)).toBeGreaterThanOrEqual(taken);
        expect(Number(requests)).toBeLessThanOrEqual(taken + perTurn);
        expect([prompt_tokens, cost]).toEqual([String(3 * Number(requests)), requests]);
      }),
      { numRuns: 4 },
    );
  });
});
