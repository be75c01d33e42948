import { addDays, dayOf } from '@tally/contracts';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let today: string;

beforeAll(async () => {
  ingest = await startIngest();
  ingest.clock.now = Date.now();
  today = dayOf(ingest.clock.now);
});
afterAll(() => ingest.close());

type Event = Record<string, unknown>;
let events = 0;
const record = async (...entries: Event[]) => {
  const result = await ingest.admin.usage.record.mutate({
    entries: entries.map((entry) => ({ id: `e${events++}`, merchantId: 'acme', metrics: {}, ...entry })) as never,
  });
  await ingest.admin.flush.run.mutate({});
  return result;
};

/** Sums of whole days by the given dimensions, as `value,value` → amount. */
const sums = async (key: string, groupBy: string[] = [], days = 40) => {
  const meter = (await ingest.db.meters.find({ key, merchantId: '' }))!;
  const starts = [Date.parse(`${addDays(today, -days)}T00:00:00Z`)];
  const end = Date.parse(`${addDays(today, 1)}T00:00:00Z`);
  const rows = await ingest.db.meters.read(meter, { starts, end, groupBy, filters: {}, limit: 1_000 });
  return Object.fromEntries(rows.map(({ group, value }) => [group.join(), value]));
};

test('sums a metric type by dimensions, before and after it is derived, and with events from before the meter', async () => {
  const dimensions = ['user', 'property:region'];
  const event = (userId: string, region: string | undefined, images: number, time?: string) => ({
    userId,
    metrics: { images: String(images) },
    ...(region && { properties: { region } }),
    ...(time && { time }),
  });
  await record(event('ada', 'eu', 1), event('ada', 'eu', 2), event('bob', undefined, 4));
  await ingest.deriveMeters.run();
  await record(event('ada', 'us', 8));
  const created = await ingest.admin.meters.create.mutate({
    key: 'images_made',
    aggregation: 'SUM',
    metricType: 'images',
    dimensions,
  });
  expect(created).toMatchObject({ version: 1, scale: 0, history: { from: null, daysDone: 0 } });
  // Events not derived yet are known at once, the others are its history.
  expect(await sums('images_made', dimensions)).toEqual({ 'ada,us': '8' });
  const all = { 'ada,eu': '3', 'ada,us': '8', 'bob,': '4' };
  await ingest.deriveMeters.run();
  expect(await sums('images_made', dimensions)).toEqual(all);
  expect((await ingest.admin.meters.get.query({ key: 'images_made' })).history.daysDone).toBe(created.history.days);
  const yesterday = `${addDays(today, -1)}T10:20:00Z`;
  await record(event('ada', 'eu', 16, yesterday), { metrics: { other: '5' }, userId: 'ada' });
  const more = { ...all, 'ada,eu': '19' };
  expect(await sums('images_made', dimensions)).toEqual(more);
  await ingest.deriveMeters.run();
  expect(await sums('images_made', dimensions)).toEqual(more);
  expect(await sums('images_made', [])).toEqual({ '': '31' });
  // Folded into days, then into months.
  expect(await ingest.db.meters.fold(addDays(today, 40), 0, 100)).toBeGreaterThanOrEqual(3);
  expect(await sums('images_made', dimensions)).toEqual(more);
  expect(await sums('images_made', ['user'])).toEqual({ ada: '27', bob: '4' });
});

test('counts no value `unknown` as a different one: it stands for events without a value', async () => {
  const dimensions = ['property:session'];
  await ingest.admin.meters.create.mutate({
    ...{ key: 'sessions', aggregation: 'UNIQUE', valueProperty: 'property:session', dimensions },
  });
  await record(...['s1', 's2', 's1', 'unknown', ''].map((session) => ({ properties: { session } })), {
    properties: { other: 's3' },
  });
  for (let run = 0; run < 2; run++) {
    expect(await sums('sessions')).toEqual({ '': '2' });
    expect(await sums('sessions', dimensions)).toEqual({ s1: '1', s2: '1' });
    await ingest.deriveMeters.run();
  }
  await ingest.admin.meters.remove.mutate({ key: 'sessions' });
});

test('updates name and unit as a new version, and removes a meter', async () => {
  const { key, version } = await ingest.admin.meters.update.mutate({
    key: 'images_made',
    name: 'Images',
    unit: 'pieces',
  });
  expect([key, version]).toEqual(['images_made', 2]);
  const { versions } = await ingest.admin.meters.get.query({ key });
  expect(versions.map(({ version, name }) => [version, name])).toEqual([
    [2, 'Images'],
    [1, 'images_made'],
  ]);
  await expect(
    ingest.admin.meters.create.mutate({ key, aggregation: 'COUNT', merchantId: 'acme' }),
  ).rejects.toMatchObject({ data: { code: 'CONFLICT' } });
  expect(await ingest.admin.meters.remove.mutate({ key })).toEqual({ removed: true });
  await expect(ingest.admin.meters.get.query({ key })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
  const { rows } = await ingest.admin.meters.list.query({});
  expect(rows.map((meter) => meter.key)).toEqual([
    'requests',
    'failed_requests',
    'prompt_tokens',
    'completion_tokens',
    'total_tokens',
    'cost',
    'priced_events',
    'priced_requests',
    'priced_input_tokens',
    'priced_cached_tokens',
    'priced_cache_write_tokens',
    'priced_output_tokens',
    'priced_reasoning_tokens',
    'priced_cost',
  ]);
});

test('counts values of a property beyond the limit of a day under (other), also when it is computed again', async () => {
  const small = await startIngest({ MAX_DIMENSION_VALUES_PER_DAY: '3' });
  small.clock.now = ingest.clock.now;
  try {
    const create = { key: 'jobs', aggregation: 'COUNT' as const, dimensions: ['property:job'] };
    await small.admin.meters.create.mutate(create);
    const send = async (jobs: readonly string[]) => {
      const entries = jobs.map((job) => ({ id: `e${events++}`, merchantId: 'acme', metrics: {}, properties: { job } }));
      await small.admin.usage.record.mutate({ entries });
      await small.admin.flush.run.mutate({});
      await small.deriveMeters.run();
    };
    const meter = (await small.db.meters.find({ key: 'jobs', merchantId: '' }))!;
    const byJob = async () => {
      const [starts, end] = [[Date.parse(`${today}T00:00:00Z`)], Date.parse(`${addDays(today, 1)}T00:00:00Z`)];
      const rows = await small.db.meters.read(meter, {
        starts,
        end,
        groupBy: ['property:job'],
        filters: {},
        limit: 99,
      });
      return Object.fromEntries(rows.map(({ group, value }) => [group[0], value]));
    };
    await send(['a', 'b']);
    await send(['c', 'd', 'e', 'a', 'x'.repeat(500)]);
    await send(['d', 'b']);
    const counted = { a: '2', b: '2', c: '1', '(other)': '4' };
    expect(await byJob()).toEqual(counted);
    await small.admin.meters.rebuild.mutate({ key: 'jobs', startDate: today, endDate: today });
    expect(await byJob()).toEqual(counted);
    const range = { startDate: today, endDate: today, dimensions: ['property:job'] };
    expect(await small.db.meters.overflowed(range)).toBe(true);
    // Events not derived yet are counted the same way.
    await small.admin.usage.record.mutate({
      entries: [{ id: `e${events++}`, merchantId: 'acme', metrics: {}, properties: { job: 'f' } }],
    });
    await small.admin.flush.run.mutate({});
    expect(await byJob()).toEqual({ ...counted, '(other)': '5' });
  } finally {
    await small.close();
  }
});
