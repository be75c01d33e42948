import type { UsageEntry } from '@tally/contracts';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let merchants = 0;
const newMerchant = () => `explained-${++merchants}`;
const DAYS = ['2026-11-20', '2026-11-21', '2026-11-22'] as const;
const RANGE = { startDate: DAYS[0], endDate: DAYS[2] };

beforeAll(async () => {
  // Few, so that rollups have values under `(other)`.
  ingest = await startIngest({ MAX_DIMENSION_VALUES_PER_DAY: '2' });
});
afterAll(() => ingest.close());

const explain = (question: object) =>
  ingest.admin.usage.explain.query(question as Parameters<typeof ingest.admin.usage.explain.query>[0]);

type Sent = { day: number; user: string | undefined; model: string | undefined; tokens: number; seats: number };

const sent: fc.Arbitrary<Sent> = fc.record({
  day: fc.nat(2),
  user: fc.constantFrom(undefined, 'ada', 'bob', 'eve', 'kim'),
  model: fc.constantFrom(undefined, 'm1', 'm2', 'm3'),
  tokens: fc.nat(3),
  seats: fc.nat(2),
});
const chosen = (values: string[]) => fc.option(fc.uniqueArray(fc.constantFrom(...values), { maxLength: 2 }));

const entryOf = (merchantId: string, { day, user, model, tokens, seats }: Sent, index: number): UsageEntry => ({
  id: `e${index}`,
  merchantId,
  time: `${DAYS[day]}T10:00:00Z`,
  metrics: { prompt_tokens: String(tokens), seats: String(seats) },
  ...(user && { userId: user }),
  ...(model && { model }),
});

describe('an explanation of a range', () => {
  test('has the number, the days and the entries of a plain sum, whatever the filters', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(sent, { minLength: 1, maxLength: 12 }),
        chosen(['ada', 'bob', 'eve', 'kim', 'unknown']),
        chosen(['m1', 'm2', 'm3', 'unknown']),
        fc.constantFrom('prompt_tokens', 'seats', 'requests', 'total_tokens'),
        fc.integer({ min: 1, max: 5 }),
        async (events, users, models, metricType, limit) => {
          // An amount of 0 records no metric.
          fc.pre(metricType !== 'seats' || events.some(({ seats }) => seats > 0));
          const merchantId = newMerchant();
          await ingest.admin.usage.record.mutate({
            entries: events.map((event, index) => entryOf(merchantId, event, index)),
          });
          const has = (names: string[] | null, value: string | undefined) =>
            !names || names.length === 0 || names.includes(value ?? 'unknown');
          const amountOf = ({ tokens, seats }: Sent) =>
            metricType === 'requests' ? 1 : metricType === 'seats' ? seats : tokens;
          const meant = events
            .map((event, index) => ({ ...event, id: `e${index}`, amount: amountOf(event) }))
            .filter((event) => has(users, event.user) && has(models, event.model));
          const counted = meant.filter(({ amount }) => amount !== 0);
          const sum = (of: typeof meant) => String(of.reduce((total, { amount }) => total + amount, 0));

          const question = { merchantId, ...RANGE, metricType, limit, userIds: users ?? [], models: models ?? [] };
          const first = await explain(question);
          expect(first).toMatchObject({ value: sum(meant), entryCount: String(counted.length), ...RANGE });
          expect(first.agrees).not.toBe(false);
          const days = DAYS.map((date, day) => [date, sum(meant.filter((event) => event.day === day))]);
          expect(first.byDay.filter(({ value }) => value !== '0').map(({ date, value }) => [date, value])).toEqual(
            days.filter(([, value]) => value !== '0'),
          );
          const ids: string[] = [];
          for (let page = first; ; page = await explain({ ...question, cursor: page.nextCursor })) {
            ids.push(...page.entries.map(({ date, id }) => `${date} ${id}`));
            expect(page.value).toBe(first.value);
            if (page.nextCursor === null) break;
          }
          expect(ids).toEqual(counted.map(({ day, id }) => `${DAYS[day]} ${id}`).sort());
        },
      ),
      { numRuns: Number(process.env.FC_RUNS ?? 15) },
    );
  });

  test('explains what rollups count under `(other)`, and says that they agree', async () => {
    const merchantId = newMerchant();
    const users = ['ada', 'bob', 'eve', 'kim'];
    const entries = users.map((user, index) =>
      entryOf(merchantId, { day: 1, user, model: undefined, tokens: 1, seats: 0 }, index),
    );
    await ingest.admin.usage.record.mutate({ entries });
    const question = { merchantId, ...RANGE, metricType: 'prompt_tokens' };
    expect(await explain({ ...question, userIds: ['(other)'] })).toMatchObject({ value: '2', agrees: true });
    expect(await explain({ ...question, userIds: ['kim'] })).toMatchObject({
      value: '1',
      agrees: true,
      entries: [{ userId: 'kim' }],
    });
  });

  test('has the adjustments of its filters, and sees a stored number that differs', async () => {
    const merchantId = newMerchant();
    await ingest.admin.usage.record.mutate({
      entries: [entryOf(merchantId, { day: 0, user: 'ada', model: undefined, tokens: 3, seats: 1 }, 0)],
    });
    const adjustment = { merchantId, metrics: { prompt_tokens: '-1' }, reason: 'a credit' };
    await ingest.admin.usage.adjust.mutate({ ...adjustment, id: 'a', date: DAYS[0], dimensions: { userId: 'ada' } });
    await ingest.admin.usage.adjust.mutate({ ...adjustment, id: 'b', date: DAYS[1], dimensions: { userId: 'bob' } });
    const question = { merchantId, ...RANGE, metricType: 'prompt_tokens' };
    expect(await explain(question)).toMatchObject({ value: '1', adjustmentCount: 2, agrees: true });
    expect(await explain({ ...question, userIds: ['ada'] })).toMatchObject({
      value: '2',
      adjustments: [{ id: 'a' }],
      byDay: [{ date: DAYS[0], value: '2', adjusted: '-1', entryCount: '1', kept: true, agrees: true }],
      agrees: true,
      keptFrom: null,
    });
    const client = new pg.Client({ connectionString: ingest.databaseUrl });
    await client.connect();
    await client.query(`update usage_daily set prompt_tokens = 7 where merchant_id = $1 and user_id = 'ada'`, [
      merchantId,
    ]);
    await client.end();
    expect(await explain({ ...question, userIds: ['ada'] })).toMatchObject({ value: '2', agrees: false });
  });

  test('is limited by events, not by the calls that they stand for', async () => {
    const merchantId = newMerchant();
    const event = { merchantId, time: `${DAYS[0]}T10:00:00Z`, metrics: {} };
    await ingest.admin.usage.record.mutate({
      entries: [
        { ...event, id: 'year', count: 1_000_000_000 },
        { ...event, id: 'day', count: 6_000_000 },
      ],
    });
    const found = await explain({ merchantId, ...RANGE, metricType: 'requests' });
    expect(found).toMatchObject({ value: '1006000000', entryCount: '2', callCount: '1006000000', agrees: true });
  });

  test('refuses what was never recorded, naming what was', async () => {
    const merchantId = newMerchant();
    const question = { merchantId, ...RANGE, metricType: 'seets' };
    const refused = (text: string) => ({ data: { code: 'NOT_FOUND' }, message: expect.stringContaining(text) });
    await expect(explain({ ...question, metricType: 'cost' })).rejects.toMatchObject(refused(merchantId));
    await ingest.admin.usage.record.mutate({
      entries: [entryOf(merchantId, { day: 0, user: 'ada', model: undefined, tokens: 3, seats: 1 }, 0)],
    });
    await expect(explain(question)).rejects.toMatchObject(refused('prompt_tokens, requests, seats'));
    expect(await explain({ ...question, metricType: 'failed_requests' })).toMatchObject({
      value: '0',
      entryCount: '0',
    });
  });

  test.each([
    {},
    { date: DAYS[0], startDate: DAYS[0], endDate: DAYS[1] },
    { startDate: DAYS[0] },
    { startDate: DAYS[1], endDate: DAYS[0] },
    { startDate: '2020-01-01', endDate: DAYS[0] },
  ])('is refused for %o', async (days) => {
    await expect(explain({ merchantId: 'acme', metricType: 'cost', ...days })).rejects.toMatchObject({
      data: { httpStatus: 400 },
    });
  });
});

test('the days of a range whose entries were dropped keep their numbers', async () => {
  const own = await startIngest();
  const merchantId = 'aging';
  const record = (day: number, index: number) =>
    own.admin.usage.record.mutate({
      entries: [entryOf(merchantId, { day, user: 'ada', model: undefined, tokens: 2, seats: 1 }, index)],
    });
  await record(1, 0);
  await own.admin.flush.merchant.mutate({ merchantId });
  // Both days are past the retention, but the second one was written to lately.
  own.clock.now += 36 * 86_400_000;
  const client = new pg.Client({ connectionString: own.databaseUrl });
  await client.connect();
  await client.query(`update usage_touched_days set touched_at = touched_at - interval '40 days'`);
  await client.query(`update usage_flushes set started_at = started_at - interval '40 days'`);
  await client.end();
  expect((await own.admin.journal.close.mutate({})).closed).toEqual([DAYS[1]]);
  await own.admin.usage.record.mutate({
    entries: [{ ...entryOf(merchantId, { day: 2, user: 'ada', model: undefined, tokens: 5, seats: 1 }, 1) }],
    backfill: true,
  });
  const ask = (more: object) =>
    own.admin.usage.explain.query({ merchantId, ...RANGE, metricType: 'prompt_tokens', ...more });
  const days = [
    { date: DAYS[1], value: '2', kept: false, entryCount: '0' },
    { date: DAYS[2], value: '5', kept: true, entryCount: '1' },
  ];
  expect(await ask({})).toMatchObject({
    value: '7',
    agrees: true,
    keptFrom: DAYS[2],
    byDay: days,
    entries: [{ id: 'e1' }],
  });
  expect(await ask({ userIds: ['ada'] })).toMatchObject({ value: '7', byDay: days, agrees: true });
  await expect(ask({ userIds: ['ada'], metricType: 'seats' })).rejects.toMatchObject({
    data: { code: 'GRAIN_NOT_KEPT' },
  });
  await own.close();
});
