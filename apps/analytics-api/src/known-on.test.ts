import { addDays, type Day, dayOf, type UsageEntry } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

let running: Running;
const today = dayOf(Date.now());
const first = addDays(today, -40);

beforeAll(async () => {
  running = await startAnalytics();
  const meter = { metricType: 'images', dimensions: ['user'] };
  await running.ingest.meters.create.mutate({ ...meter, key: 'images_sum', aggregation: 'SUM' as const });
  await running.ingest.meters.create.mutate({ ...meter, key: 'images_max', aggregation: 'MAX' as const });
}, 120_000);
afterAll(() => running.stop());

/** A moment after all that was done before, and before all that is done after. */
function momentAfter(): string {
  const moment = Date.now() + 1;
  while (Date.now() <= moment);
  return new Date(moment).toISOString();
}

/** Everything that can be asked as of a moment; a range of weeks, so that months and days are read. */
async function answers(merchantId: string, asKnownOn?: string) {
  const { analytics } = running.client;
  const scope = {
    ...{ startDate: first, endDate: today, merchantIds: [merchantId] },
    ...(asKnownOn !== undefined && { asKnownOn }),
  };
  const [summary, byUser, byModel, ...meters] = await Promise.all([
    analytics.summary.query(scope),
    analytics.breakdown.query({ ...scope, by: 'user' }),
    analytics.breakdown.query({ ...scope, by: 'model' }),
    ...['cost', 'images_sum', 'images_max'].map((meter) =>
      analytics.meter.query({ ...scope, meter, window: 'day', groupBy: ['user'] }),
    ),
    ...['user', 'model'].map((by) =>
      analytics.meter.query({ ...scope, meter: 'cost', window: 'hour', timeZone: 'Asia/Kathmandu', groupBy: [by] }),
    ),
  ]);
  // A day that sums up to nothing is listed by an answer of now, and not by an earlier one.
  const byDay = summary.byDay.filter(({ requests, cost }) => requests !== '0' || cost !== '0');
  return [{ ...summary, byDay }, byUser, byModel, ...meters].map(({ coverage, ...answer }) => answer);
}

const day = fc.constantFrom(0, 1, 33);
const step = fc.oneof(
  fc.record({
    do: fc.constant('record' as const),
    day,
    user: fc.constantFrom('ada', 'bob'),
    amount: fc.integer({ min: 1, max: 9 }),
  }),
  fc.record({
    do: fc.constant('adjust' as const),
    day,
    amount: fc.integer({ min: -5, max: 5 }).filter((amount) => amount !== 0),
  }),
  fc.record({ do: fc.constant('void' as const) }),
  fc.record({ do: fc.constant('derive' as const) }),
);

test('an answer as of a moment is the answer that was given then', async () => {
  let merchants = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 2, maxLength: 8 }), async (steps) => {
      const merchantId = `known-${merchants++}`;
      const { ingest, db } = running;
      const then: { moment: string; given: unknown }[] = [];
      const events: { id: string; date: Day }[] = [];
      for (const [at, each] of steps.entries()) {
        if (each.do === 'derive') while ((await db.meters.derive(1_000)).flushes > 0);
        else if (each.do === 'void') {
          const event = events.pop();
          if (event) await ingest.usage.void.mutate({ merchantId, ...event, reason: 'wrong' });
        } else {
          const date = addDays(today, -each.day);
          const metrics = { images: `${each.amount}`, cost: `${each.amount}` };
          if (each.do === 'adjust') {
            const adjustment = { id: `a${at}`, merchantId, date, metrics, reason: 'credit' };
            await ingest.usage.adjust.mutate({ ...adjustment, dimensions: { userId: 'bob' } });
          } else {
            const entry: UsageEntry = {
              id: `e${at}`,
              merchantId,
              userId: each.user,
              time: `${date}T${each.day === 0 ? '00:00:01' : '05:20:01'}Z`,
              metrics,
            };
            await ingest.usage.record.mutate({
              entries: [{ ...entry, model: `m${each.amount % 2}`, provider: `p${each.amount % 2}` }],
            });
            events.push({ id: entry.id, date });
          }
        }
        await ingest.flush.drain.mutate({});
        const given = await answers(merchantId);
        then.push({ moment: momentAfter(), given });
      }
      for (const { moment, given } of then) expect(await answers(merchantId, moment)).toEqual(given);
    }),
    { numRuns: runsOf({ short: 2, long: 4 }) },
  );
});

test('what was counted and voided later was not known in any hour', async () => {
  const merchantId = 'voided-later';
  const { ingest, client } = running;
  const before = momentAfter();
  const event = { id: 'a', merchantId, userId: 'ada', time: `${first}T05:20:01Z`, metrics: { cost: '1' } };
  await ingest.usage.record.mutate({ entries: [event], backfill: true });
  await ingest.usage.void.mutate({ merchantId, id: 'a', date: first, reason: 'wrong' });
  const days = { startDate: first, endDate: first, merchantIds: [merchantId] };
  for (const by of ['user', 'model'])
    expect(
      await client.analytics.meter.query({ ...days, meter: 'cost', window: 'hour', groupBy: [by], asKnownOn: before }),
    ).toMatchObject({ rows: [] });
});

test('the total of a meter as of a moment may begin and end anywhere', async () => {
  const merchantId = 'any-moment';
  const { ingest, client } = running;
  const day = addDays(today, -1);
  const at = (time: string) => `${day}T${time}Z`;
  const event = (id: string, time: string): UsageEntry => ({
    ...{ id, merchantId, userId: 'ada', time: at(time), metrics: { images: '1' } },
  });
  const times = ['05:20:00', '05:20:01', '05:40:00', '07:00:01', '07:00:02'];
  await ingest.usage.record.mutate({ entries: times.map((time) => event(time, time)) });
  await ingest.usage.adjust.mutate({ id: 'c', merchantId, date: day, metrics: { images: '100' }, reason: 'credit' });
  await ingest.flush.drain.mutate({});
  const moment = momentAfter();
  await ingest.usage.record.mutate({ entries: [event('late', '06:00:00')] });
  await ingest.usage.void.mutate({ merchantId, id: '05:40:00', date: day, reason: 'wrong' });
  const total = async (from: string, to: string, meter = 'images_sum') => {
    const scope = { meter, merchantIds: [merchantId], from: at(from), to: at(to) };
    const answers = await Promise.all(
      [{}, { asKnownOn: moment }].map((known) => client.analytics.meter.query({ ...scope, ...known })),
    );
    return answers.map(({ rows }) => rows.map(({ value }) => value));
  };
  expect(await total('05:20:01', '07:00:02')).toEqual([['3'], ['3']]);
  expect(await total('05:20:01', '06:00:00')).toEqual([['1'], ['2']]);
  expect(await total('00:00:00', '05:20:00.001')).toEqual([['101'], ['101']]);
  expect(await total('00:00:00.001', '05:20:00.001', 'images_max')).toEqual([['1'], ['1']]);
  expect(await total('05:20:01.001', '05:39:59.999')).toEqual([[], []]);
});

test('a moment that is ahead, or whose later events are no longer kept, is refused', async () => {
  const merchantId = 'dropped';
  const old = addDays(today, -32);
  const entry = (id: string, userId: string): UsageEntry => ({
    ...{ id, merchantId, userId, time: `${old}T10:00:00Z`, metrics: { images: '2', cost: '1' } },
  });
  const { ingest, db, client } = running;
  const before = momentAfter();
  await ingest.usage.record.mutate({ entries: [entry('a', 'ada')] });
  await ingest.flush.drain.mutate({});
  while ((await db.derivations.derive(1_000)).flushes > 0);
  while ((await db.meters.derive(1_000)).flushes > 0);
  expect(await db.partitions.close(old)).toBe(true);
  const after = momentAfter();
  const scope = { startDate: old, endDate: today, merchantIds: [merchantId] };
  const { analytics } = client;
  const isRefused = (code: string) => ({ data: { code } });
  for (const refused of [
    () => analytics.breakdown.query({ ...scope, by: 'user', asKnownOn: before }),
    () => analytics.summary.query({ ...scope, asKnownOn: before }),
    () => analytics.meter.query({ ...scope, meter: 'cost', asKnownOn: before }),
    () => analytics.meter.query({ ...scope, meter: 'images_sum', asKnownOn: after }),
  ])
    await expect(refused()).rejects.toMatchObject(isRefused('JOURNAL_DROPPED'));
  const ahead = new Date(Date.now() + 3_600_000).toISOString();
  await expect(analytics.summary.query({ ...scope, asKnownOn: ahead })).rejects.toMatchObject(
    isRefused('INVALID_INPUT'),
  );
  const credit = { id: 'later', merchantId, date: old, metrics: { cost: '5' }, reason: 'credit' };
  await ingest.usage.adjust.mutate(credit);
  const known = await analytics.breakdown.query({ ...scope, by: 'user', asKnownOn: after });
  expect(known).toMatchObject({ totals: { cost: '1' }, coverage: { asOf: after } });
  expect((await analytics.summary.query(scope)).totals.cost).toBe('6');
});
