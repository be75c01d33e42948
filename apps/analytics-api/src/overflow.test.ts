import { openDb } from '@tally/db';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

let running: Running;
const date = '2025-01-15';

beforeAll(async () => {
  running = await startAnalytics();
  // A process whose rollups hold one value per dimension and day.
  const db = await openDb(running.databaseUrl, { dimensionValuesPerDay: 1 });
  const lines = ['ada', 'bob'].map((user_id) => ({
    ...{ merchant_id: 'acme', date, id: user_id, time: Date.parse(`${date}T12:00:00Z`), user_id, model: 'm' },
    ...{ requests: '1', origin: 'direct' },
  }));
  await db.journal.append({ source: 'backfill', lines });
  await db.close();
});
afterAll(() => running.stop());

test('says where values that a filter names may be counted under (other)', async () => {
  const breakdown = (more: object = {}) =>
    running.client.analytics.breakdown.query({ startDate: date, endDate: date, by: 'user', ...more });
  const all = await breakdown();
  expect(all.rows.map((row) => [row.key, row.requests]).sort()).toEqual([
    ['(other)', '1'],
    ['ada', '1'],
  ]);
  expect(all.coverage.overflow).toBeUndefined();
  expect((await breakdown({ userIds: ['bob'] })).coverage).toMatchObject({ complete: true, overflow: true });
  expect((await breakdown({ models: ['m'] })).coverage.overflow).toBeUndefined();
  expect((await breakdown({ userIds: ['bob'], merchantIds: ['other'] })).coverage.overflow).toBeUndefined();
  const later = { startDate: '2025-01-16', endDate: '2025-01-16', userIds: ['bob'] };
  expect((await breakdown(later)).coverage.overflow).toBeUndefined();
});

test('says the same of a meter, whether declared or built in', async () => {
  await running.ingest.meters.create.mutate({ key: 'calls', aggregation: 'COUNT', dimensions: ['user', 'model'] });
  const overflowOf = async (meter: string, filters: Record<string, string[]>) =>
    (await running.client.analytics.meter.query({ meter, startDate: date, endDate: date, filters })).coverage.overflow;
  for (const meter of ['calls', 'requests']) {
    expect(await overflowOf(meter, { user: ['bob'] })).toBe(true);
    expect(await overflowOf(meter, { model: ['m'] })).toBeUndefined();
    expect(await overflowOf(meter, {})).toBeUndefined();
  }
});

test('counts the same values under (other) in series that are read from the journal', async () => {
  const range = { startDate: date, endDate: date, interval: 'hour', groupBy: 'user' } as const;
  const hours = await running.client.analytics.timeseries.query(range);
  const noon = hours.points[12]!.groups!.map(({ key, requests }) => [key, requests]);
  expect(noon.sort()).toEqual([
    ['(other)', '1'],
    ['ada', '1'],
  ]);
  const others = await running.client.analytics.timeseries.query({ ...range, userIds: ['(other)'] });
  expect(others.points[12]!.requests).toBe('1');
});

test('says where an answer by team lacks usage that is counted under (other)', async () => {
  const range = { startDate: date, endDate: date } as const;
  const entries = ['ada', 'bob'].map((id) => ({ kind: 'user' as const, id, name: id, team: 'red' }));
  await running.client.directory.upsert.mutate({ entries });
  const byTeam = await running.client.analytics.breakdown.query({ ...range, by: ['provider', 'team'] });
  expect(byTeam.rows.map(({ keys, requests }) => [keys?.[1], requests]).sort()).toEqual([
    ['red', '1'],
    ['unknown', '1'],
  ]);
  expect(byTeam.coverage).toMatchObject({ complete: true, overflow: true });
  const series = await running.client.analytics.timeseries.query({ ...range, interval: 'day', groupBy: 'team' });
  expect(series.coverage.overflow).toBe(true);
  const byModel = await running.client.analytics.timeseries.query({ ...range, interval: 'day', groupBy: 'model' });
  expect(byModel.coverage.overflow).toBeUndefined();
});
