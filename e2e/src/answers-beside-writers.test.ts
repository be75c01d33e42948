import { addDays, dayOf, type Filters, type UsageEntry } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { runsOf } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Services, startServices } from './services.ts';

const KEYS = { TALLY_ADMIN_KEY: 'the-admin-key-of-e2e', TALLY_SERVICE_KEY: 'the-service-key-of-e2e' };
/** Answers of each kind to look at. */
const ANSWERS = runsOf({ short: 25, long: 250 });
const MERCHANTS = ['ada', 'bob', 'eve'];
const MODELS = ['a', 'b', undefined];
const TODAY = dayOf(Date.now());
const BATCH = 30;

let services: Services;

beforeAll(async () => {
  services = await startServices(KEYS);
});
afterAll(() => services?.stop());

let serial = 0;
const some = <T>(list: readonly T[]): T => list[serial++ % list.length]!;

/** Events by merchant and day: how many were sent, and of how many a caller was told that they are counted. */
const sent = new Map<string, number>();
const acknowledged = new Map<string, number>();
const add = (counts: Map<string, number>, entries: readonly UsageEntry[]) => {
  for (const { merchantId, time } of entries) {
    const key = `${merchantId} ${time!.slice(0, 10)}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
};
const countOf = (counts: Map<string, number>, { startDate, endDate, merchantIds }: Filters) =>
  [...counts].reduce((sum, [key, count]) => {
    const [merchantId, date] = key.split(' ') as [string, string];
    return merchantIds!.includes(merchantId) && date >= startDate && date <= endDate ? sum + count : sum;
  }, 0);

/** Most days have not been seen before: the first events of a day need a partition of their own. */
function nextEntries(): UsageEntry[] {
  const date = some([TODAY, addDays(TODAY, -1 - (serial % 300))]);
  return Array.from({ length: BATCH }, () => ({
    ...{ id: `e${serial++}`, merchantId: some(MERCHANTS), time: `${date}T00:00:00Z`, userId: `u${serial % 7}` },
    ...{ model: some(MODELS), metrics: { prompt_tokens: '3', completion_tokens: '5' } },
  }));
}

type Sums = { requests: string; promptTokens: string; completionTokens: string };

/** Checks an answer whose parts sum to the whole, all at one moment. */
function checkParts(whole: Sums, parts: readonly Sums[], what: string): void {
  for (const { requests, promptTokens, completionTokens } of [whole, ...parts])
    expect([promptTokens, completionTokens], what).toEqual([
      String(3n * BigInt(requests)),
      String(5n * BigInt(requests)),
    ]);
  const sum = parts.reduce((total, { requests }) => total + BigInt(requests), 0n);
  expect(String(sum), what).toBe(whole.requests);
}

test('every answer beside writers has what was acknowledged before, nothing twice, and equal parts', async () => {
  const { usage } = createIngestClient({ url: services.ingest.url, key: KEYS.TALLY_ADMIN_KEY });
  const { analytics } = createAnalyticsClient({ url: services.analytics.url, key: KEYS.TALLY_ADMIN_KEY });
  let isDone = false;
  let isKilled = false;

  async function write(): Promise<void> {
    while (!isDone) {
      const entries = nextEntries();
      add(sent, entries);
      for (let isCounted = false; !isCounted; )
        isCounted = await usage.record.mutate({ entries, backfill: true }).then(
          ({ accepted, duplicates }) => accepted + duplicates === BATCH,
          () => !isKilled && Promise.reject(new Error('refused without a reason')),
        );
      add(acknowledged, entries);
    }
  }

  const ask = {
    async summary(filters: Filters) {
      const { totals, byDay, coverage } = await analytics.summary.query(filters);
      checkParts(totals, byDay, 'summary');
      return { totals, coverage };
    },
    async breakdown(filters: Filters) {
      const by = some(['user', 'model', 'merchant', ['model', 'user'], 'team'] as const);
      const { totals, rows, coverage } = await analytics.breakdown.query({ ...filters, by: by as 'user', limit: 200 });
      checkParts(totals, rows, `breakdown by ${by}`);
      return { totals, coverage };
    },
    async timeseries(filters: Filters) {
      const { points, coverage } = await analytics.timeseries.query({ ...filters, interval: some(['day', 'month']) });
      const requests = points.reduce((sum, point) => sum + BigInt(point.requests), 0n);
      return { totals: { requests: String(requests) }, coverage };
    },
  };

  async function read(kind: keyof typeof ask): Promise<void> {
    for (let complete = 0; complete < ANSWERS; ) {
      const startDate = addDays(TODAY, -some([0, 30, 400]));
      const filters: Filters = { startDate, endDate: TODAY, merchantIds: some([MERCHANTS, ['ada']]) };
      const least = countOf(acknowledged, filters);
      const { totals, coverage } = await ask[kind](filters).catch((error: unknown) => {
        if (isKilled) return { totals: undefined, coverage: undefined };
        throw error;
      });
      if (!totals) continue;
      const requests = Number(totals.requests);
      expect(requests, kind).toBeLessThanOrEqual(countOf(sent, filters));
      if (!coverage.complete) continue;
      expect(requests, kind).toBeGreaterThanOrEqual(least);
      complete++;
    }
  }

  const writing = Promise.all([write(), write()]);
  const kinds = Object.keys(ask) as (keyof typeof ask)[];
  try {
    await Promise.all(kinds.map(read));
    isKilled = true;
    await services.ingest.kill();
    await services.ingest.start();
    await Promise.all(kinds.map(read));
  } finally {
    isDone = true;
    await writing;
  }

  const filters = { startDate: addDays(TODAY, -400), endDate: TODAY, merchantIds: MERCHANTS };
  for (const kind of kinds) expect((await ask[kind](filters)).totals.requests).toBe(String(countOf(sent, filters)));
});
