import { addDays, dayOf } from '@tally/contracts';
import {
  type AnalyticsClient,
  createAnalyticsClient,
  createIngestClient,
  type IngestClient,
} from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type FreshStore, freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';

const KEY = 'the-admin-key-of-the-late-entry';
/** Days back, of a past month: its day, week, month and year are all closed. */
const LATE = addDays(dayOf(Date.now()), -40);

let stores: FreshStore[];
let processes: ServiceProcess[];
let ingest: IngestClient;
let readers: { client: AnalyticsClient; url: string }[];

beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  stores = [database, redis];
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY };
  const recording = await startServiceProcess('usage-ingest', env);
  const reading = {
    ...env,
    USAGE_INGEST_URL: recording.url,
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    ADMIN_EXPORT_RATE_LIMIT: '100000',
  };
  const [one, two] = await Promise.all([
    startServiceProcess('analytics-api', reading),
    startServiceProcess('analytics-api', reading),
  ]);
  processes = [one!, two!, recording];
  ingest = createIngestClient({ url: recording.url, key: KEY });
  readers = [one!, two!].map(({ url }) => ({ url, client: createAnalyticsClient({ url, key: KEY }) }));
});

afterAll(async () => {
  for (const process of processes ?? []) await process.stop();
  await Promise.all((stores ?? []).map((store) => store.drop()));
});

const record = (id: string) =>
  ingest.usage.record.mutate({
    entries: [
      { id, merchantId: 'acme', time: `${LATE}T12:00:00Z`, metrics: { prompt_tokens: '5' }, userId: 'ann', model: 'm' },
    ],
    backfill: true,
  });

/** The requests in every kind of answer about the day, its week, its month and the year before today. */
async function requestsIn({ client, url }: (typeof readers)[number]): Promise<Record<string, string>> {
  const month = { startDate: `${LATE.slice(0, 8)}01`, endDate: addDays(`${LATE.slice(0, 8)}01`, 27) };
  const whole = LATE > month.endDate ? { ...month, endDate: LATE } : month;
  const year = { startDate: addDays(LATE, -300), endDate: addDays(LATE, 30) };
  const answers: Record<string, string> = {};
  const sum = (rows: { requests: string }[]) => String(rows.reduce((all, row) => all + BigInt(row.requests), 0n));
  for (const [name, range] of Object.entries({ day: { startDate: LATE, endDate: LATE }, month: whole, year })) {
    answers[`summary ${name}`] = (await client.analytics.summary.query(range)).totals.requests;
    for (const by of ['user', 'model', 'merchant'] as const)
      answers[`${by} ${name}`] = sum((await client.analytics.breakdown.query({ ...range, by })).rows);
    for (const interval of ['day', 'week', 'month'] as const)
      answers[`${interval}s ${name}`] = sum((await client.analytics.timeseries.query({ ...range, interval })).points);
    const types = { ...range, merchantId: 'acme', metricTypes: ['requests'] };
    const { rows } = await client.analytics.merchantUsage.query(types);
    answers[`metrics ${name}`] = rows[0]?.metricValue ?? '0';
    const file = await fetch(`${url}/export/usage.csv?startDate=${range.startDate}&endDate=${range.endDate}&by=user`, {
      headers: { authorization: `Bearer ${KEY}` },
    });
    answers[`export ${name}`] = (await file.text()).split('\n')[1]?.split(',')[4] ?? '0';
  }
  const { byUser } = await client.days.get.query({ date: LATE });
  answers.document = byUser.ann?.requests ?? '0';
  return answers;
}

test('an entry that comes weeks late is in the first answer after it, of every kind, though two processes had kept them', async () => {
  await record('in time');
  for (const expected of ['1', '2', '3']) {
    // Twice: the second time from the caches of the processes.
    for (const reader of [...readers, ...readers]) {
      const answers = await requestsIn(reader);
      expect(answers).toEqual(Object.fromEntries(Object.keys(answers).map((name) => [name, expected])));
    }
    await record(`late ${expected}`);
  }
  for (const { client } of readers) expect((await client.cache.stats.query({})).memoryHits).toBeGreaterThan(30);
});
