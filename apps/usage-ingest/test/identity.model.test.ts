import { dayOf, type UsageEntry } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FAULT_POINTS } from '../src/faults.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

/**
 * Copies of events on both sides of a midnight, with equal and with other content, by every path and with every crash:
 * each identity counts once, and differing copies are never silent.
 */
const RUNS = runsOf({ short: 15, long: 40 });
const MIDNIGHT = Date.parse('2026-11-22T00:00:00Z');
const MINUTE = 60_000;

type Point = (typeof FAULT_POINTS)[number];

class Death extends Error {}

let ingest: Fixture;
let sql: pg.Client;
let armed: Point | undefined;
let serial = 0;

beforeAll(async () => {
  ingest = await startIngest({ DEDUPLICATION_MEMORY_SHARE: '0' }, (point) => {
    if (point !== armed) return;
    armed = undefined;
    throw new Death(point);
  });
  ingest.clock.now = MIDNIGHT + 125 * MINUTE;
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

type Copy = { id: number; minutes: number; tokens: number };
const copy: fc.Arbitrary<Copy> = fc.record({
  id: fc.integer({ min: 0, max: 2 }),
  minutes: fc.constantFrom(-600, -121, -119, -1, 0, 1, 119, 121),
  tokens: fc.constantFrom(1, 1, 20),
});
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('record' as const),
      copies: fc.array(copy, { minLength: 1, maxLength: 4 }),
      // Redis fails before it has the batch, or after: then both stores have it.
      fault: fc.constantFrom<Point | undefined>(undefined, undefined, 'record.before-redis', 'record.after-store'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('drain' as const),
      fault: fc.constantFrom<Point | undefined>(undefined, undefined, 'flush.before-commit', 'flush.after-commit'),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: 'redis loses the ids' as const }) },
);

const timeOf = ({ minutes }: Copy) => MIDNIGHT + minutes * MINUTE;
const isNear = (time: number) => time >= MIDNIGHT - 120 * MINUTE && time < MIDNIGHT + 120 * MINUTE;

test('counts each identity once around a midnight and shows every conflict, whatever crashes', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (history) => {
      const merchantId = `m${serial++}`;
      const acknowledged: Copy[] = [];
      for (const each of history) {
        armed = 'fault' in each ? each.fault : undefined;
        if (each.do === 'record') await record(merchantId, each.copies, acknowledged);
        else if (each.do === 'drain') await drain(merchantId);
        else await forgetIds();
        armed = undefined;
      }
      await compare(merchantId, acknowledged);
    }),
    { numRuns: RUNS },
  );
});

async function record(merchantId: string, copies: readonly Copy[], acknowledged: Copy[]): Promise<void> {
  const entries = copies.map(
    (each): UsageEntry => ({
      id: `e${each.id}`,
      merchantId,
      time: new Date(timeOf(each)).toISOString(),
      metrics: { prompt_tokens: String(each.tokens) },
    }),
  );
  const { accepted, duplicates, rejected } = await ingest.admin.usage.record.mutate({ entries });
  expect(accepted + duplicates + rejected.length).toBe(copies.length);
  expect(rejected.filter(({ code }) => code !== 'ID_CONFLICT')).toEqual([]);
  const refused = new Set(rejected.map(({ index }) => index));
  acknowledged.push(...copies.filter((_, index) => !refused.has(index)));
}

async function drain(merchantId: string): Promise<void> {
  await ingest.flush.drainMerchants([merchantId]).catch((error: unknown) => {
    if (!(error instanceof Death)) throw error;
  });
}

async function forgetIds(): Promise<void> {
  const keys = await (ingest.redis as Redis).keys('usage-shard:*:ids:*');
  if (keys.length > 0) await ingest.redis.del(...keys);
}

async function compare(merchantId: string, acknowledged: readonly Copy[]): Promise<void> {
  const range = { startDate: '2026-11-20', endDate: '2026-11-23' };
  const { rows: conflicts } = await ingest.admin.usage.conflicts.query({ ...range, merchantId });
  const { rows } = await sql.query(
    'select date::text as date, id, time, prompt_tokens::int as tokens from usage_events where merchant_id = $1',
    [merchantId],
  );
  const near = rows.filter((row) => isNear(row.time.getTime()));
  expect(new Set(near.map((row) => row.id)).size, 'rows around the midnight').toBe(near.length);
  const differing = new Set(conflicts.map((each) => `${each.date} ${each.id} ${tokensOf(each)}`));
  for (const each of acknowledged) {
    const date = dayOf(timeOf(each));
    // A copy of the day before the midnight can make those around it copies of one from earlier that day.
    const own = rows.filter((row) => row.id === `e${each.id}` && (row.date === date || isNear(timeOf(each))));
    expect(own.length, `${date} e${each.id}`).toBeGreaterThan(0);
    const isCounted = own.some((row) => row.tokens === each.tokens);
    const isShown = own.some((row) => differing.has(`${row.date} ${row.id} ${each.tokens}`));
    expect(isCounted || isShown, `${date} e${each.id} of ${each.tokens}`).toBe(true);
  }
  expect((await ingest.admin.reconcile.check.query({ ...range, merchantIds: [merchantId] })).drift).toEqual([]);
  for (const date of ['2026-11-21', '2026-11-22']) {
    const { metrics } = await ingest.admin.usage.current.query({ merchantId, date });
    const counted = rows.filter((row) => row.date === date);
    expect(Number(metrics.requests ?? 0)).toBe(counted.length);
    expect(Number(metrics.prompt_tokens ?? 0)).toBe(counted.reduce((sum, row) => sum + row.tokens, 0));
  }
}

const tokensOf = (conflict: { notCounted: { entry: { metrics: Record<string, string> } } }) =>
  conflict.notCounted.entry.metrics.prompt_tokens;

const entryAt = (merchantId: string, minutes: number, more: Partial<UsageEntry> = {}): UsageEntry => ({
  ...{ id: 'retried', merchantId, time: new Date(MIDNIGHT + minutes * MINUTE).toISOString() },
  metrics: { prompt_tokens: '10' },
  ...more,
});
const send = (...entries: UsageEntry[]) => ingest.admin.usage.record.mutate({ entries });

test('recognises a retry across midnight in a batch and in Redis, and counts it on the first day', async () => {
  const merchantId = `m${serial++}`;
  const none = { accepted: 0, rejected: [] };
  expect(await send(entryAt(merchantId, -1), entryAt(merchantId, 1))).toMatchObject({ accepted: 1, duplicates: 1 });
  expect(await send(entryAt(merchantId, 2))).toMatchObject({ ...none, duplicates: 1 });
  await drain(merchantId);
  await forgetIds();
  await send(entryAt(merchantId, 119));
  expect(
    (await ingest.admin.usage.explain.query({ merchantId, date: '2026-11-21', metricType: 'requests' })).value,
  ).toBe('1');
  expect((await ingest.admin.usage.current.query({ merchantId, date: '2026-11-22' })).metrics.requests ?? '0').toBe(
    '0',
  );
});

test('rejects other content under a known id where that is known when answering, and lists it otherwise', async () => {
  const merchantId = `m${serial++}`;
  const other = { metrics: { audio_seconds: '7' }, userId: 'ada' };
  const conflict = (index: number) => ({ index, id: 'retried', code: 'ID_CONFLICT' });
  const inBatch = await send(entryAt(merchantId, 125), entryAt(merchantId, 125, other));
  expect(inBatch).toMatchObject({ accepted: 1, duplicates: 0, rejected: [conflict(1)] });
  // Redis does not know the event of the id; the flush does.
  await send(entryAt(merchantId, 125, other));
  const range = { merchantId, startDate: '2026-11-22', endDate: '2026-11-22' };
  const { rows } = await ingest.admin.usage.conflicts.query(range);
  expect(rows).toMatchObject([
    {
      ...{ merchantId, id: 'retried', date: '2026-11-22', source: 'stream' },
      counted: { digest: expect.stringMatching(/^[0-9a-f]{64}$/), time: '2026-11-22T02:05:00.000Z' },
      notCounted: { digest: expect.stringMatching(/^[0-9a-f]{64}$/), entry: { metrics: other.metrics, userId: 'ada' } },
    },
  ]);
  expect((await ingest.admin.usage.current.query({ merchantId, date: '2026-11-22' })).metrics).toMatchObject({
    requests: '1',
    prompt_tokens: '10',
  });
  armed = 'record.before-redis';
  const direct = await send(entryAt(merchantId, 125, { metrics: { prompt_tokens: '11' } }));
  armed = undefined;
  expect(direct).toMatchObject({ accepted: 0, duplicates: 0, rejected: [conflict(0)] });
  const pages: unknown[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await ingest.admin.usage.conflicts.query({ ...range, limit: 1, ...(cursor && { cursor }) });
    pages.push(...page.rows);
    cursor = page.nextCursor;
  }
  expect(pages).toHaveLength(2);
});
