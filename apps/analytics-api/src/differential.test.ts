import {
  addDays,
  type BreakdownBy,
  type BreakdownRow,
  type CheckedEntry,
  countDays,
  DAY_MS,
  dayOf,
  type Grouping,
  type Interval,
  type Measures,
  parseQuantity,
  type SortBy,
} from '@tally/contracts';
import type { AnalyticsClient } from '@tally/contracts/client';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';
import { periodBefore } from './dates.ts';
import { measuresOf, NOTHING } from './measures.ts';
import { periodsOf } from './zone.ts';

/** Runs of the property; `FC_RUNS` asks for more. */
const RUNS = Number(process.env.FC_RUNS ?? 40);
const TODAY = dayOf(Date.now());
/** Some days of the years before, so that years and months are read whole, in part and less the rest. */
const LONG_AGO = [101, 250, 330, 366, 400, 480, 700];
const FIRST = addDays(TODAY, -720);
/** Of longer series the brute force would take most of the time. */
const MOST_DAYS = { '15m': 30, hour: 120, day: 800, week: 800, month: 800 };
const DIMENSION = {
  user: 'userId',
  model: 'model',
  provider: 'provider',
  apiKey: 'apiKey',
  merchant: 'merchantId',
} as const;
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
/** Everything that was acknowledged: the brute force counts it again for every question. */
const book: CheckedEntry[] = [];

beforeAll(async () => {
  running = await startAnalytics();
  // Two caching processes, so that neither can live on its own memory.
  cached = [running.client, (await running.another()).client];
  uncached = (await running.another({ ENABLE_ANALYTICS_CACHE: 'false' })).client;
  // Most days of the questions are open at first, and are rolled up while they are asked.
  const sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  await sql.query('update usage_rolled_up set date = $1', [addDays(TODAY, -120)]);
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
  // Mostly near now, so that days of UTC and of the zones differ within the range asked.
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

test('whatever is asked, whenever, cached or not, equals a count of every acknowledged entry', async () => {
  let serial = 0;
  const step = fc.record({
    entries: fc.array(entry, { maxLength: 8 }),
    flush: fc.boolean(),
    deriveEvents: fc.option(fc.constantFrom(1, 20, 1_000), { nil: undefined }),
    rollUp: fc.option(fc.record({ ago: fc.integer({ min: 0, max: 130 }), rows: fc.constantFrom(1, 10, 1_000) }), {
      nil: undefined,
    }),
    rebuild: fc.option(merchant, { nil: undefined, freq: 8 }),
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
  });
  await fc.assert(
    fc.asyncProperty(
      step,
      async ({ entries, flush, deriveEvents, rollUp, rebuild, question, by, sortBy, order, limit, ...series }) => {
        const now = Date.now();
        const sent = entries.map(({ prompt, completion, nanoUsd, failed, ago, ...rest }): CheckedEntry => {
          const known = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
          return {
            ...(known as typeof rest & { merchantId: string }),
            id: `entry-${serial++}`,
            time: new Date(now - ago).toISOString(),
            metrics: { prompt_tokens: `${prompt}`, completion_tokens: `${completion}`, cost: dollars(nanoUsd) },
            status: failed ? 'failure' : 'success',
          } as CheckedEntry;
        });
        if (sent.length > 0) {
          const result = await running.ingest.usage.record.mutate({ entries: sent, backfill: true });
          expect(result).toMatchObject({ accepted: sent.length, rejected: [] });
          book.push(...sent);
        }
        // Under way while the questions are asked.
        const meanwhile = Promise.all([
          flush && running.ingest.flush.drain.mutate({}),
          deriveEvents && running.db.derivations.derive(deriveEvents),
          rollUp && running.db.derivations.rollUp(addDays(TODAY, -rollUp.ago), rollUp.rows),
          rebuild && running.db.cubes.rebuild(rebuild, addDays(TODAY, -40), TODAY),
        ]);

        const paged = { ...question, by, sortBy, order, limit };
        const wanted = bruteBreakdown(question, by, sortBy, order);
        const asked = [...cached, uncached, ...cached];
        const pages = await Promise.all(asked.map((client) => everyPage(client, paged)));
        for (const page of pages) expect(page).toEqual(wanted);

        const inZone = { ...question, ...series };
        if (countDays(question.startDate, question.endDate) <= MOST_DAYS[series.interval]) {
          const points = bruteSeries(inZone);
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
        expect(summary!.totals).toEqual(measures(within(question)));
        expect(summary!.activeUsers).toBe(activeUsers(within(question)));
        const { rows: users } = bruteBreakdown(question, 'user', 'cost', 'desc');
        expect(summary!.topUsers.map(({ key, cost }) => ({ key, cost }))).toEqual(
          users.flatMap(({ key, cost }) => (key === 'unknown' ? [] : [{ key, cost }])).slice(0, 5),
        );
        const before = within({ ...question, ...periodBefore(question) });
        const { successRate: _, ...sums } = measures(before);
        for (const [name, value] of Object.entries({ ...sums, activeUsers: String(activeUsers(before)) }))
          expect(summary!.trends[name as keyof NonNullable<typeof summary>['trends']].previous, name).toBe(value);
        for (const { date, ...day } of summary!.byDay)
          expect(day).toEqual(measures(within({ ...question, startDate: date, endDate: date })));
        await meanwhile;
      },
    ),
    { numRuns: RUNS },
  );
});

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

/** A user of two merchants is two. */
const activeUsers = (entries: readonly CheckedEntry[]) =>
  new Set(entries.flatMap(({ merchantId, userId }) => (userId ? [`${merchantId} ${userId}`] : []))).size;

function within({ startDate, endDate, ...filters }: Question): CheckedEntry[] {
  const passes = (list: string[] | undefined, value: string | undefined) =>
    !list || list.length === 0 || list.includes(value ?? 'unknown');
  return book.filter((each) => {
    const date = each.time!.slice(0, 10);
    return date >= startDate && date <= endDate && matches(each, filters, passes);
  });
}

function matches(
  each: CheckedEntry,
  filters: Omit<Question, 'startDate' | 'endDate'>,
  passes: (list: string[] | undefined, value: string | undefined) => boolean,
): boolean {
  return (
    passes(filters.merchantIds, each.merchantId) &&
    passes(filters.userIds, each.userId) &&
    passes(filters.models, each.model) &&
    passes(filters.providers, each.provider) &&
    passes(filters.apiKeys, each.apiKey) &&
    passes(filters.teams, groupOf(each, 'team'))
  );
}

function measures(entries: readonly CheckedEntry[]): Measures {
  return measuresOf(
    entries.reduce((sums, { count, status, metrics }) => {
      const calls = BigInt(count ?? 1);
      return {
        requests: sums.requests + calls,
        failed_requests: sums.failed_requests + (status === 'failure' ? calls : 0n),
        prompt_tokens: sums.prompt_tokens + BigInt(metrics.prompt_tokens!),
        completion_tokens: sums.completion_tokens + BigInt(metrics.completion_tokens!),
        cost: sums.cost + parseQuantity('cost', metrics.cost!)!,
      };
    }, NOTHING),
  );
}

function groupOf({ merchantId, userId, apiKey, ...entry }: CheckedEntry, by: Grouping): string {
  if (by !== 'team') return { merchantId, userId, apiKey, ...entry }[DIMENSION[by]] ?? 'unknown';
  const teamOf = (kind: string, id: string | undefined) =>
    TEAMS.get(`${kind} ${id} ${merchantId}`) ?? TEAMS.get(`${kind} ${id} `);
  return teamOf('apiKey', apiKey) ?? teamOf('user', userId) ?? 'unknown';
}

function grouped(entries: readonly CheckedEntry[], by: BreakdownBy) {
  const keysOf = (entry: CheckedEntry) => [by].flat().map((each) => groupOf(entry, each));
  const groups = new Map(entries.map((entry) => [JSON.stringify(keysOf(entry)), keysOf(entry)]));
  return [...groups].map(([text, keys]) => ({
    ...(typeof by === 'string' ? { key: keys[0]! } : { key: text, keys: keys as [string, string] }),
    ...measures(entries.filter((entry) => JSON.stringify(keysOf(entry)) === text)),
  }));
}

function bruteBreakdown(question: Question, by: BreakdownBy, sortBy: SortBy, order: 'asc' | 'desc') {
  const entries = within(question);
  const value = (row: { key: string } & Measures) =>
    sortBy === 'key' ? 0n : sortBy === 'cost' ? parseQuantity('cost', row.cost)! : BigInt(row[sortBy]);
  const place = ({ keys, key }: { keys?: [string, string]; key: string }) => (keys ?? [key]).join('\0');
  const rows = grouped(entries, by).sort((left, right) => {
    const difference = value(left) - value(right);
    const ascending = difference === 0n ? (place(left) < place(right) ? -1 : 1) : difference < 0n ? -1 : 1;
    return order === 'asc' ? ascending : -ascending;
  });
  return { rows, totals: measures(entries), total: rows.length };
}

function bruteSeries(question: Question & { interval: Interval; timeZone: string; groupBy?: Grouping | undefined }) {
  const { startDate, endDate, interval, timeZone, groupBy, ...filters } = question;
  const all = within({ ...filters, startDate: FIRST, endDate: addDays(TODAY, 1) });
  return periodsOf({ startDate, endDate }, interval, timeZone).map(({ from, to }) => {
    const entries = all.filter((each) => Date.parse(each.time!) >= from && Date.parse(each.time!) < to);
    return {
      from: new Date(from).toISOString(),
      to: new Date(to).toISOString(),
      ...measures(entries),
      ...(groupBy && { groups: sorted(grouped(entries, groupBy)) }),
    };
  });
}

const sorted = <T extends { key: string }>(groups: readonly T[]): T[] =>
  [...groups].sort((left, right) => (left.key < right.key ? -1 : 1));

function dollars(nano: bigint): string {
  return `${nano / 10n ** 9n}.${(nano % 10n ** 9n).toString().padStart(9, '0')}`;
}
