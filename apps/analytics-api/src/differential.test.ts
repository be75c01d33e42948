import {
  addDays,
  type BreakdownBy,
  type BreakdownRow,
  countDays,
  DAY_MS,
  dayOf,
  type Grouping,
  type Interval,
  type SortBy,
} from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { createModel, dollars, MODEL_METRICS, type ModelEvent, type ModelMetric } from '../test/model.ts';
import { KEY, type Running, startAnalytics } from '../test/start.ts';

/** Runs of the property; `FC_RUNS` sets more. */
const RUNS = runsOf({ short: 12, long: 40 });
const TODAY = dayOf(Date.now());
/** Some days of earlier years, so that years and months are read whole, in part, and minus the rest. */
const LONG_AGO = [101, 250, 330, 366, 400, 480, 700];
/** Longer series would spend most of the time in the brute force. */
const MOST_DAYS = { '15m': 30, hour: 120, day: 800, week: 800, month: 800 };
const GROUPINGS = ['user', 'model', 'provider', 'apiKey', 'merchant', 'team'] as const satisfies Grouping[];
/** Teams by kind, id and merchant; '' for every merchant. */
const TEAMS = new Map([
  ['user user-1 ', 'red'],
  ['user user-2 ', 'blue'],
  ['user user-2 acme', 'green'],
  ['apiKey key-1 ', 'blue'],
  ['apiKey key-1 globex', 'red'],
]);
const ZONES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'Asia/Kathmandu',
  'Australia/Lord_Howe',
  'Pacific/Apia',
  'America/St_Johns',
];

let running: Running;
let uncached: AnalyticsClient;
let cached: AnalyticsClient[];
/** Every acknowledged event, counted again for every query. */
const model = createModel(TEAMS);

beforeAll(async () => {
  running = await startAnalytics();
  // Two caching processes, so that neither can rely on its own memory.
  cached = [running.client, (await running.another()).client];
  uncached = (await running.another({ ENABLE_ANALYTICS_CACHE: 'false' })).client;
  // Most queried days are open at first, and are rolled up during the queries.
  const sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  await sql.query('update usage_rolled_up set date = $1, quarter_month = usage_quarter_month($1)', [
    addDays(TODAY, -120),
  ]);
  await sql.end();
  await running.client.directory.upsert.mutate({
    entries: [...TEAMS].map(([place, team]) => {
      const [kind, id, merchantId] = place.split(' ') as ['user' | 'apiKey', string, string];
      return { kind, id, name: id, merchantId: merchantId || null, team };
    }),
  });
});
afterAll(() => running.stop());

const merchant = fc.constantFrom('acme', 'globex', 'initech');
const dimension = (name: string, count: number) =>
  fc.option(
    fc.integer({ min: 1, max: count }).map((n) => `${name}-${n}`),
    { nil: undefined },
  );
const entry = fc.record({
  merchantId: merchant,
  userId: dimension('user', 5),
  apiKey: dimension('key', 3),
  model: dimension('model', 3),
  provider: dimension('provider', 2),
  failed: fc.boolean(),
  count: fc.integer({ min: 1, max: 3 }),
  prompt: fc.integer({ min: 0, max: 9_000 }),
  completion: fc.integer({ min: 0, max: 9_000 }),
  nanoUsd: fc.bigInt({ min: 0n, max: 10n ** 15n }),
  // Mostly near now, so that days of UTC and of the zones differ within the queried range.
  ago: fc.oneof(
    fc.integer({ min: 0, max: 3 * DAY_MS }),
    fc.integer({ min: 0, max: 100 * DAY_MS }),
    fc.constantFrom(...LONG_AGO).map((days) => days * DAY_MS),
  ),
});
const some = <T>(item: fc.Arbitrary<T>) => fc.option(fc.array(item, { maxLength: 2 }), { nil: undefined, freq: 3 });
const named = (name: string, count: number) => dimension(name, count).map((value) => value ?? 'unknown');
const question = fc
  .record({
    from: fc.oneof(fc.integer({ min: 0, max: 100 }), fc.integer({ min: 0, max: 720 })),
    length: fc.oneof(...[4, 100, 720].map((max) => fc.integer({ min: 0, max }))),
    merchantIds: some(merchant),
    userIds: some(named('user', 5)),
    models: some(named('model', 3)),
    providers: some(named('provider', 2)),
    apiKeys: some(named('key', 3)),
    teams: some(fc.constantFrom('red', 'green', 'blue', 'unknown')),
  })
  .map(({ from, length, ...filters }) => {
    const startDate = addDays(TODAY, -from);
    return { startDate, endDate: addDays(startDate, Math.min(length, from)), ...filters };
  });
type Question = typeof question extends fc.Arbitrary<infer Q> ? Q : never;

test('every answer, cached or not, equals a count of every acknowledged event', async () => {
  let serial = 0;
  const step = fc.record({
    entries: fc.array(entry, { maxLength: 8 }),
    flush: fc.boolean(),
    deriveEvents: fc.option(fc.constantFrom(1, 20, 1_000), { nil: undefined }),
    rollUp: fc.option(fc.record({ ago: fc.integer({ min: 0, max: 130 }), rows: fc.constantFrom(1, 10, 1_000) }), {
      nil: undefined,
    }),
    rebuild: fc.option(merchant, { nil: undefined, freq: 8 }),
    quarters: fc.option(fc.constantFrom('forget' as const, 1, 1_000), { nil: undefined }),
    question,
    by: fc.oneof(
      fc.constantFrom<BreakdownBy>(...GROUPINGS),
      fc
        .uniqueArray(fc.constantFrom(...GROUPINGS), { minLength: 2, maxLength: 2 })
        .map((pair) => pair as [Grouping, Grouping]),
    ),
    sortBy: fc.constantFrom<SortBy>('cost', 'requests', 'totalTokens', 'key'),
    order: fc.constantFrom('asc' as const, 'desc' as const),
    limit: fc.integer({ min: 1, max: 4 }),
    interval: fc.constantFrom<Interval>('15m', 'hour', 'day', 'week', 'month'),
    timeZone: fc.constantFrom(...ZONES),
    groupBy: fc.option(fc.constantFrom(...GROUPINGS), { nil: undefined }),
    explained: merchant,
    metricType: fc.constantFrom(...MODEL_METRICS),
  });
  type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

  async function record(entries: Step['entries']): Promise<void> {
    if (entries.length === 0) return;
    const now = Date.now();
    const events = entries.map(
      ({ ago, ...event }): ModelEvent => ({
        ...(Object.fromEntries(Object.entries(event).filter(([, value]) => value !== undefined)) as typeof event),
        id: `entry-${serial++}`,
        time: new Date(now - ago).toISOString(),
      }),
    );
    const sent = events.map(({ prompt, completion, nanoUsd, failed, ...event }) => ({
      ...event,
      metrics: { prompt_tokens: `${prompt}`, completion_tokens: `${completion}`, cost: dollars(nanoUsd) },
      status: failed ? ('failure' as const) : ('success' as const),
    }));
    const result = await running.ingest.usage.record.mutate({ entries: sent, backfill: true });
    expect(result).toMatchObject({ accepted: sent.length, rejected: [] });
    model.add(events);
    for (const { merchantId, time } of events) changedSince.set(`${merchantId} ${time.slice(0, 10)}`, now);
  }

  // From here on each change is listed with its moment.
  await readChanges();
  await fc.assert(
    fc.asyncProperty(
      step,
      async ({ entries, flush, deriveEvents, rollUp, rebuild, quarters, question, by, ...more }) => {
        await record(entries);
        // No plan that reads them may be under way.
        if (quarters === 'forget') await forgetQuarters();
        // Runs during the queries.
        const meanwhile = Promise.all([
          flush && running.ingest.flush.drain.mutate({}),
          deriveEvents && running.db.derivations.derive(deriveEvents),
          rollUp && running.db.derivations.rollUp(addDays(TODAY, -rollUp.ago), rollUp.rows),
          rebuild && running.db.rebuild.merchant(rebuild, addDays(TODAY, -40), TODAY),
          typeof quarters === 'number' && computeQuarters(quarters),
        ]);

        const { sortBy, order, limit, explained, metricType, ...series } = more;
        const paged = { ...question, by, sortBy, order, limit };
        const wanted = model.breakdown(question, by, sortBy, order);
        const asked = [...cached, uncached, ...cached];
        const pages = await Promise.all(asked.map((client) => everyPage(client, paged)));
        for (const page of pages) expect(page).toEqual(wanted);
        expectSame(await inNumbers({ ...paged, by: [by].flat() }), {
          rows: wanted.rows.slice(0, limit),
          totals: wanted.totals,
        });

        const inZone = { ...question, ...series };
        if (countDays(question.startDate, question.endDate) <= MOST_DAYS[series.interval]) {
          const points = model.series(question, series);
          for (const client of [...cached, uncached]) {
            const answer = await client.analytics.timeseries.query(inZone);
            expect(
              answer.points.map(({ start: _, groups, ...point }) => ({
                ...point,
                ...(groups && { groups: sorted(groups) }),
              })),
            ).toEqual(points);
          }
        }

        const [summary, again] = await Promise.all(
          [cached[0]!, uncached].map((client) => client.analytics.summary.query(question)),
        );
        expect({ ...again, coverage: null }).toEqual({ ...summary, coverage: null });
        expect(summary!.totals).toEqual(model.totals(question));
        expect(summary!.activeUsers).toBe(model.activeUsers(question));
        const { rows: users } = model.breakdown(question, 'user', 'cost', 'desc');
        expect(summary!.topUsers.map(({ key, cost }) => ({ key, cost }))).toEqual(
          users.flatMap(({ key, cost }) => (key === 'unknown' ? [] : [{ key, cost }])).slice(0, 5),
        );
        const length = countDays(question.startDate, question.endDate);
        const before = {
          ...question,
          startDate: addDays(question.startDate, -length),
          endDate: addDays(question.startDate, -1),
        };
        const { successRate: _, ...sums } = model.totals(before);
        for (const [name, value] of Object.entries({ ...sums, activeUsers: String(model.activeUsers(before)) }))
          expect(summary!.trends[name as keyof NonNullable<typeof summary>['trends']].previous, name).toBe(value);
        for (const { date, ...day } of summary!.byDay)
          expect(day).toEqual(model.totals({ ...question, startDate: date, endDate: date }));

        await expectExplained({ ...question, merchantId: explained, metricType, limit });
        await readChanges();
        await meanwhile;
      },
    ),
    { numRuns: RUNS },
  );

  // The queries of the last step may have flushed other merchants only.
  await running.ingest.flush.drain.mutate({});
  // Other transactions of the server delay the list.
  await vi.waitFor(
    async () => {
      await readChanges();
      for (const [place, at] of changedSince) expect(listedAt.get(place) ?? 0, place).toBeGreaterThanOrEqual(at);
    },
    { timeout: 60_000, interval: 200 },
  );
}, 1_340_000);

/** Makes the database one that was upgraded: no quarter of a month is complete. */
async function forgetQuarters(): Promise<void> {
  const sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  await sql.query('delete from usage_quarter_months');
  await sql.query(`delete from usage_rollup_rows where rollup = 'usage_quarter_months'`);
  await sql.query(`update usage_rolled_up set quarter_month = '0001-01-01', quarter_merchant = ''`);
  await sql.end();
}

/** Computes some history of quarters of months, in slices. */
async function computeQuarters(rows: number): Promise<void> {
  for (let slices = 12; slices > 0 && (await running.db.derivations.computeQuarters(rows)); slices--);
}

/** When the last event of a merchant's day was sent, and when the reader of `usage.changes` saw the day change. */
const changedSince = new Map<string, number>();
const listedAt = new Map<string, number>();
let since: string | undefined;

async function readChanges(): Promise<void> {
  for (let hasMore = true; hasMore; ) {
    const answer = await running.ingest.usage.changes.query({ since, limit: 7 });
    for (const { merchantId, date, changedAt } of answer.rows)
      listedAt.set(`${merchantId} ${date}`, changedAt === null ? 0 : Date.parse(changedAt));
    ({ nextCursor: since, hasMore } = answer);
  }
}

/** The longest range of one explanation. */
const MOST_EXPLAINED_DAYS = 366;

type Explained = Question & { merchantId: string; metricType: ModelMetric; limit: number };

/** Compares the explanation of a number, on all its pages, with its events. */
async function expectExplained({
  merchantIds: _,
  teams: __,
  merchantId,
  limit,
  ...question
}: Explained): Promise<void> {
  const latest = addDays(question.endDate, 1 - MOST_EXPLAINED_DAYS);
  question.startDate = question.startDate > latest ? question.startDate : latest;
  const { metricType, ...filters } = question;
  if (!model.events().some((event) => event.merchantId === merchantId)) return;
  const { ids, byDay, ...head } = model.explained({ ...filters, merchantIds: [merchantId] }, metricType);
  const found: string[] = [];
  for (let cursor: string | undefined, first = true; ; first = false) {
    const page = await running.ingest.usage.explain.query({ ...question, merchantId, limit: 3 * limit, cursor });
    expect(page).toMatchObject({ ...head, complete: true, adjustmentCount: 0 });
    if (first)
      expect(page.byDay).toEqual(
        byDay.map((day) => ({
          ...day,
          adjusted: '0',
          kept: true,
          agrees: expect.toSatisfy((agrees) => agrees !== false),
        })),
      );
    found.push(...page.entries.map(({ id }) => id));
    if (page.nextCursor === null) break;
    cursor = page.nextCursor;
  }
  expect(found).toEqual(ids);
}

/** Returns a page over REST with `numbers=true`. */
async function inNumbers(question: object): Promise<{ rows: object[]; totals: object }> {
  const parameters = Object.entries(question).flatMap(([name, value]) =>
    [value].flat().flatMap((each): [string, string][] => (each === undefined ? [] : [[name, String(each)]])),
  );
  const address = `http://analytics/api/v1/usage/breakdown?${new URLSearchParams([...parameters, ['numbers', 'true']])}`;
  const response = await running.app.request(address, { headers: { authorization: `Bearer ${KEY}` } });
  expect(response.status).toBe(200);
  const { rows, totals } = (await response.json()) as { rows: Record<string, unknown>[]; totals: object };
  return { rows: rows.map(({ label: _, labels: __, details: ___, ...row }) => row), totals };
}

const QUANTITIES = new Set(['requests', 'failedRequests', 'promptTokens', 'completionTokens', 'totalTokens', 'cost']);
/** Decimals with more digits may have no number that prints the same. */
const EXACT_DIGITS = 15;

/** Expects quantities to be numbers that print as the wanted decimals, and everything else to be equal. */
function expectSame(actual: unknown, wanted: unknown, name = ''): void {
  if (typeof wanted === 'object' && wanted !== null) {
    expect(Object.keys(actual as object).sort()).toEqual(Object.keys(wanted).sort());
    for (const [key, value] of Object.entries(wanted)) expectSame((actual as Record<string, unknown>)[key], value, key);
  } else if (QUANTITIES.has(name) && typeof actual === 'number') {
    // Less than a millionth prints with an exponent.
    expect(actual > 0 && actual < 1e-6 ? actual.toFixed(9).replace(/0+$/, '') : String(actual)).toBe(wanted);
  } else {
    expect(actual).toBe(wanted);
    if (QUANTITIES.has(name)) expect(String(wanted).replace('.', '').length).toBeGreaterThan(EXACT_DIGITS);
  }
}

async function everyPage(
  client: AnalyticsClient,
  question: Parameters<AnalyticsClient['analytics']['breakdown']['query']>[0],
) {
  const rows: BreakdownRow[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await client.analytics.breakdown.query({ ...question, ...(cursor ? { cursor } : {}) });
    rows.push(...page.rows);
    if (page.nextCursor === null) {
      const { totals, total } = page;
      return { rows: rows.map(({ label: _, labels: __, details: ___, ...row }) => row), totals, total };
    }
    cursor = page.nextCursor;
  }
}

const sorted = <T extends { key: string }>(groups: readonly T[]): T[] =>
  [...groups].sort((left, right) => (left.key < right.key ? -1 : 1));
