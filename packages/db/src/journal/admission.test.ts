import { type FreshStore, freshDatabase, runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { LineToAppend } from './journal-line.ts';
import type { FlushSource } from './journal-store.ts';

const RUNS = runsOf({ short: 15, long: 40 });
const LIMIT = 3;

let store: FreshStore;
/** Two processes with the same limit, each with its own memory. */
let dbs: [Db, Db];
let client: pg.Client;
let serial = 0;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  const open = () => openDb(store.url, { poolSize: 5, dimensionValuesPerDay: LIMIT });
  dbs = [await open(), await open()];
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
});

afterAll(async () => {
  await client.end();
  for (const db of dbs) await db.close();
  await store.drop();
});

const DIMENSIONS = ['user_id', 'api_key', 'model', 'provider'] as const;
const DATES = ['2026-03-01', '2026-03-02'];
type Sent = { date: string } & Record<(typeof DIMENSIONS)[number], string>;

const value = fc.constantFrom('', 'a', 'b', 'c', 'd', 'e', 'f', 'g');
const sent: fc.Arbitrary<Sent> = fc.record({
  date: fc.constantFrom(...DATES),
  ...{ user_id: value, api_key: value, model: value, provider: value },
});
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('append' as const),
      by: fc.constantFrom(0, 1),
      source: fc.constantFrom<FlushSource>('stream', 'direct', 'backfill'),
      lines: fc.array(sent, { minLength: 1, maxLength: 5 }),
      dies: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('adjust' as const), by: fc.constantFrom(0, 1), what: sent }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('rebuild' as const), by: fc.constantFrom(0, 1) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('derive' as const), by: fc.constantFrom(0, 1) }) },
);

const withoutNone = (dimensions: object) =>
  Object.fromEntries(Object.entries(dimensions).filter(([, text]) => text !== ''));
let ids = 0;
const lineOf = (merchant_id: string, { date, ...dimensions }: Sent, origin: string): LineToAppend => ({
  ...{ merchant_id, date, id: `e${ids++}`, time: Date.parse(`${date}T10:00:00Z`), requests: '1', origin },
  ...withoutNone(dimensions),
});

/** The plain model: the first values of each dimension and day, and the rollup rows of each event. */
class Model {
  readonly admitted = new Map<string, Set<string>>();
  readonly rows = new Map<string, number>();

  count({ date, ...dimensions }: Sent): void {
    const rolled = DIMENSIONS.map((name) => {
      const text = dimensions[name];
      const key = `${date} ${name}`;
      const values = this.admitted.get(key) ?? new Set();
      this.admitted.set(key, values);
      if (text !== '' && values.size < LIMIT) values.add(text);
      return text === '' || values.has(text) ? text : '(other)';
    });
    const row = [date, ...rolled].join(' ');
    this.rows.set(row, (this.rows.get(row) ?? 0) + 1);
  }

  /** Groups rows by some of their columns, like a table that keeps only those. */
  by(columns: readonly number[]): Map<string, number> {
    const sums = new Map<string, number>();
    for (const [row, requests] of this.rows) {
      const parts = row.split(' ');
      const key = columns.map((column) => parts[column]).join(' ');
      sums.set(key, (sums.get(key) ?? 0) + requests);
    }
    return sums;
  }
}

async function rowsOf(merchant: string, columns: string, table: string): Promise<Map<string, number>> {
  const { rows } = await client.query(
    `select concat_ws(' ', ${columns}) as key, sum(requests)::int as requests from ${table}
     where merchant_id = $1 group by 1 having sum(requests) <> 0`,
    [merchant],
  );
  return new Map(rows.map((row) => [row.key, row.requests]));
}

async function compare(merchant: string, model: Model): Promise<void> {
  expect(await rowsOf(merchant, 'date, user_id, api_key, model, provider', 'usage_daily')).toEqual(model.rows);
  const quarters = await rowsOf(merchant, `(bucket at time zone 'UTC')::date, model, provider`, 'usage_quarter_hours');
  expect(quarters).toEqual(model.by([0, 3, 4]));
  const pending = `(select merchant_id, date, model, provider, requests from usage_daily_models
    union all select merchant_id, date, model, provider, requests from usage_pending) as models`;
  expect(await rowsOf(merchant, 'date, model, provider', pending)).toEqual(model.by([0, 3, 4]));
  const { rows } = await client.query(
    `select date::text || ' ' || (array['user_id', 'api_key', 'model', 'provider'])[dimension + 1] as key,
       array_agg(value order by part, ordinality) as values
     from usage_admitted_values cross join lateral unnest(values) with ordinality as admitted (value, ordinality)
     where merchant_id = $1 group by 1`,
    [merchant],
  );
  const wanted = [...model.admitted].filter(([, values]) => values.size > 0);
  expect(new Map(rows.map((row) => [row.key, new Set(row.values)]))).toEqual(new Map(wanted));
}

test('counts every event, and values beyond the limit under (other), alike on every path and when made again', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (history) => {
      const merchant = `m${serial++}`;
      const model = new Model();
      for (const each of history) {
        const db = dbs[each.by]!;
        if (each.do === 'append') {
          const origin = `b${serial++}`;
          const lines = each.lines.map((line, at) => lineOf(merchant, line, `${origin}:${at}`));
          const { source } = each;
          if (each.dies) {
            const beforeCommit = () => Promise.reject(new Error('dies'));
            await expect(db.journal.append({ source, lines, beforeCommit })).rejects.toThrow('dies');
          }
          expect((await db.journal.append({ source, lines })).inserted).toBe(lines.length);
          for (const line of each.lines) model.count(line);
        } else if (each.do === 'adjust') {
          const { date, user_id, api_key, model: name, provider } = each.what;
          await db.corrections.adjust({
            ...{ id: `a${serial++}`, merchantId: merchant, date, reason: 'a test', actor: 'test' },
            dimensions: { userId: user_id, apiKey: api_key, model: name, provider },
            amounts: new Map([['requests', 1n]]),
          });
          model.count(each.what);
        } else if (each.do === 'rebuild') await db.rebuild.merchant(merchant, DATES[0]!, DATES[1]!);
        else await db.derivations.derive(3);
      }
      await compare(merchant, model);
      await dbs[0].rebuild.merchant(merchant, DATES[0]!, DATES[1]!);
      await compare(merchant, model);
    }),
    { numRuns: RUNS },
  );
});

test('writers that admit values at the same time admit as many as may be, and no more', async () => {
  const merchant = `m${serial++}`;
  const none = { api_key: '', model: '', provider: '' };
  await Promise.all(
    Array.from({ length: 20 }, (_, at) => {
      const line = lineOf(merchant, { date: DATES[0]!, user_id: `u${at}`, ...none }, `w${at}:0`);
      return dbs[at % 2]!.journal.append({ source: at % 3 === 0 ? 'direct' : 'stream', lines: [line] });
    }),
  );
  const users = await rowsOf(merchant, 'user_id', 'usage_daily');
  expect(users.get('(other)')).toBe(20 - LIMIT);
  expect(users.size).toBe(LIMIT + 1);
  const { rows } = await client.query('select dimension from usage_overflows where merchant_id = $1', [merchant]);
  expect(rows).toEqual([{ dimension: 0 }]);
});

test('says which lines it folds, and asks Postgres nothing about values that it knows', async () => {
  const merchant = `m${serial++}`;
  const line = (user: string, model: string) =>
    lineOf(merchant, { date: DATES[0]!, user_id: user, api_key: '', model, provider: '' }, `f${ids}:0`);
  const lines = ['a', 'b', 'c', 'd', 'a'].map((user) => line(user, 'm'));
  const { folded } = await dbs[0].journal.append({ source: 'stream', lines });
  expect(folded).toEqual([{ position: 3, dimensions: ['user_id'] }]);
  expect(dbs[0].journal.predictFolded(line('e', 'm'))).toEqual(['user_id']);
  expect(dbs[0].journal.predictFolded(line('a', 'new'))).toEqual([]);
  const before = await partsOf(merchant);
  await dbs[0].journal.append({ source: 'stream', lines: [line('b', 'm'), line('x', 'm')] });
  expect(await partsOf(merchant)).toEqual(before);
});

async function partsOf(merchant: string): Promise<unknown[]> {
  const of = 'select dimension, part, values from usage_admitted_values where merchant_id = $1 order by 1, 2';
  return (await client.query(of, [merchant])).rows;
}
