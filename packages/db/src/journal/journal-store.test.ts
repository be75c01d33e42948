import { addDays } from '@tally/contracts';
import { type FreshStore, freshDatabase, runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LOCKS } from '../locks.ts';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import { type JournalLine, type LineToAppend, OLD_ORIGIN } from './journal-line.ts';
import { LeaseLostError } from './shards-store.ts';

let store: FreshStore;
let db: Db;
let client: pg.Client;
let merchants = 0;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  db = await openDb(store.url, { poolSize: 20 });
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
});

afterAll(async () => {
  await client.end();
  await db.close();
  await store.drop();
});

const append = (lines: readonly JournalLine[]) => db.journal.append({ source: 'stream', lines: withOrigins(lines) });

let batches = 0;
const withOrigins = (lines: readonly JournalLine[]): LineToAppend[] => {
  const batch = batches++;
  return lines.map((each, position) => ({ ...each, origin: `batch${batch}:${position}` }));
};

const newMerchant = () => `m${merchants++}`;

const line = (merchant_id: string, id: string, more: Partial<JournalLine> = {}): JournalLine => ({
  merchant_id,
  date: '2026-03-01',
  id,
  time: Date.parse('2026-03-01T12:00:00Z'),
  requests: '1',
  ...more,
});

const arbitraryLine = (merchant: string): fc.Arbitrary<JournalLine> =>
  fc
    .record({
      id: fc.integer({ min: 0, max: 30 }).map(String),
      day: fc.integer({ min: 0, max: 3 }),
      // Other rules hold around a midnight; identity.test.ts covers them.
      minute: fc.integer({ min: 120, max: 1319 }),
      user_id: fc.constantFrom(undefined, 'u1', 'u2'),
      model: fc.constantFrom(undefined, 'gpt', 'claude'),
      provider: fc.constantFrom(undefined, 'openai'),
      prompt_tokens: fc.constantFrom(undefined, '1', '9007199254740993', '1000000000000000'),
      cost: fc.constantFrom(undefined, '1', '2300000'),
      metrics: fc.constantFrom(undefined, { queries: '3' }, { constructor: '1', queries: '9007199254740993' }),
    })
    .map(({ day, minute, ...rest }) => {
      const date = addDays('2026-02-27', day);
      const time = Date.parse(`${date}T00:00:00Z`) + minute * 60_000;
      return line(merchant, rest.id, {
        date,
        time,
        ...Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== undefined)),
      });
    });

test('every stored form equals the first copy of each event, for repeats in any order and batches', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(arbitraryLine('x'), { maxLength: 12 }), { maxLength: 6 }), async (batches) => {
      const merchant = newMerchant();
      const own = batches.map((batch) => batch.map((each) => ({ ...each, merchant_id: merchant })));
      const model = new Map<string, JournalLine>();
      for (const batch of own) {
        const { inserted } = await append(batch);
        const before = model.size;
        for (const each of batch) {
          const identity = `${each.date} ${each.id}`;
          if (!model.has(identity)) model.set(identity, each);
        }
        expect(inserted).toBe(model.size - before);
      }
      const kept = [...model.values()];
      const sum = (type: 'requests' | 'prompt_tokens' | 'cost') =>
        kept.reduce((total, each) => total + BigInt(each[type] ?? 0), 0n);
      while ((await db.derivations.derive(10)).flushes > 0);
      while (await db.derivations.rollUp('2100-01-01', 10));
      const cubes = [
        'usage_daily',
        'usage_monthly',
        'usage_quarter_months',
        'usage_yearly',
        'usage_daily_models',
        'usage_monthly_models',
        'usage_quarter_hours',
      ];
      for (const cube of cubes) {
        const { rows } = await client.query(
          `select coalesce(sum(requests), 0)::text r, coalesce(sum(prompt_tokens), 0)::text p, coalesce(sum(cost), 0)::text c
           from ${cube} where merchant_id = $1`,
          [merchant],
        );
        expect(rows[0], cube).toEqual({
          r: String(sum('requests')),
          p: String(sum('prompt_tokens')),
          c: String(sum('cost')),
        });
      }
      const usage = await db.usage.merchantUsage({
        merchantIds: [merchant],
        startDate: '2026-01-01',
        endDate: '2026-12-31',
      });
      const value = (type: string) =>
        usage.filter((row) => row.metric_type === type).reduce((total, row) => total + row.metric_value, 0n);
      expect(value('queries')).toBe(kept.reduce((total, each) => total + BigInt(each.metrics?.queries ?? 0), 0n));
      expect(value('requests')).toBe(sum('requests'));
    }),
    { numRuns: runsOf({ short: 15, long: 40 }) },
  );
});

test('sixteen writers on one merchant and on many end without a deadlock, each entry counted once', async () => {
  const shared = newMerchant();
  const many = Array.from({ length: 12 }, newMerchant);
  const lines = Array.from({ length: 60 }, (_, index) => [
    line(shared, `s${index % 40}`, { user_id: `u${index % 7}` }),
    line(many[index % 12]!, `e${index % 40}`, { user_id: `u${index % 5}`, date: addDays('2026-03-01', index % 3) }),
  ]).flat();
  await Promise.all(
    Array.from({ length: 16 }, (_, writer) => append([...lines.slice(writer), ...lines.slice(0, writer)])),
  );
  const usage = await db.usage.merchantUsage({ merchantIds: [shared], startDate: '2026-03-01', endDate: '2026-03-01' });
  expect(usage).toEqual([{ merchant_id: shared, date: '2026-03-01', metric_type: 'requests', metric_value: 40n }]);
});

test('sixteen writers whose batches are the first of the same days make each partition once, without a deadlock', async () => {
  const days = Array.from({ length: 12 }, (_, index) => addDays('2027-01-01', index));
  const inserted = await Promise.all(
    Array.from({ length: 16 }, async () => {
      const merchant = newMerchant();
      return (await append(days.map((date) => line(merchant, date, { date })))).inserted;
    }),
  );
  expect(inserted).toEqual(inserted.map(() => days.length));
  const { rows } = await client.query(
    `select pg_stat_get_db_deadlocks(oid)::int as deadlocks from pg_database where datname = current_database()`,
  );
  expect(rows).toEqual([{ deadlocks: 0 }]);
});

test('everybody knows the partition of a day before the transaction that writes its first event ends', async () => {
  const isThere = async () => (await client.query(`select to_regclass('usage_events_20310101') as name`)).rows[0].name;
  const lines = withOrigins([line(newMerchant(), 'a', { date: '2031-01-01' })]);
  expect(await isThere()).toBe(null);
  const beforeCommit = async () => expect(await isThere()).toBe('usage_events_20310101');
  expect((await db.journal.append({ source: 'stream', lines, beforeCommit })).inserted).toBe(1);
});

test('a process that finds a partition of another one waits until that one has told everybody', async () => {
  await append([line(newMerchant(), 'a', { date: '2031-01-02' })]);
  const other = await openDb(store.url, { poolSize: 2 });
  await client.query('begin');
  await client.query('select pg_advisory_xact_lock($1)', [LOCKS.partitions]);
  let done = false;
  const lines = withOrigins([line(newMerchant(), 'a', { date: '2031-01-02' })]);
  const appended = other.journal.append({ source: 'stream', lines }).finally(() => {
    done = true;
  });
  const waiting = `
    select count(*)::int as count from pg_locks
    where locktype = 'advisory' and objid = ${LOCKS.partitions} and not granted
      and database = (select oid from pg_database where datname = current_database())`;
  await expect.poll(async () => (await client.query(waiting)).rows).toEqual([{ count: 1 }]);
  expect(done).toBe(false);
  await client.query('commit');
  expect((await appended).inserted).toBe(1);
  await other.close();
});

test('a transaction that dies leaves no event', async () => {
  const merchant = newMerchant();
  const batch = { source: 'stream' as const, lines: withOrigins([line(merchant, 'a', { date: '2031-01-03' })]) };
  const beforeCommit = () => {
    throw new Error('the process dies here');
  };
  await expect(db.journal.append({ ...batch, beforeCommit })).rejects.toThrow('dies here');
  expect(await db.events.recent(merchant, 10)).toEqual([]);
  expect((await db.journal.append(batch)).inserted).toBe(1);
  expect(await db.journal.append(batch)).toMatchObject({ inserted: 0, repeats: [] });
});

test('a merchant that is being corrected is left out of a flush, and waited for by other sources', async () => {
  const [busy, free] = [newMerchant(), newMerchant()];
  const lines = withOrigins([line(busy, 'a'), line(free, 'a'), line(free, 'a')]);
  const direct = await db.journal.exclusively([busy], async () => {
    expect(await db.journal.append({ source: 'stream', lines })).toMatchObject({
      ...{ entries: 2, inserted: 1, repeats: [2], skipped: [busy] },
      changed: [{ merchantId: free, date: '2026-03-01' }],
    });
    return { counted: db.journal.append({ source: 'direct', lines: withOrigins([line(busy, 'b')]) }) };
  });
  expect(await direct.counted).toMatchObject({ inserted: 1, skipped: [] });
  expect(await db.journal.append({ source: 'stream', lines })).toMatchObject({
    inserted: 1,
    repeats: [2],
    skipped: [],
  });
});

describe('a line that is in the journal already', () => {
  test('is no repeat of itself, whatever else its batch has when it is appended again', async () => {
    const merchant = newMerchant();
    const [a, b] = withOrigins([line(merchant, 'a'), line(merchant, 'b')]) as [LineToAppend, LineToAppend];
    await db.journal.append({ source: 'stream', lines: [a] });
    expect(await db.journal.append({ source: 'stream', lines: [a, b] })).toMatchObject({ inserted: 1, repeats: [] });
  });

  test('is a repeat where its row came from elsewhere, by whichever path', async () => {
    const merchant = newMerchant();
    await db.journal.append({ source: 'direct', lines: [{ ...line(merchant, 'a'), origin: 'direct' }] });
    const lines = withOrigins([line(merchant, 'new'), line(merchant, 'a')]);
    expect(await db.journal.append({ source: 'stream', lines })).toMatchObject({ inserted: 1, repeats: [1] });
    expect(await db.journal.append({ source: 'stream', lines })).toMatchObject({ inserted: 0, repeats: [1] });
  });

  test('is a repeat of a row without origin, unless the release that wrote such rows could have flushed it', async () => {
    const merchant = newMerchant();
    await append([line(merchant, 'a')]);
    await client.query('update usage_events set origin = null where merchant_id = $1', [merchant]);
    expect(await append([line(merchant, 'a')])).toMatchObject({ inserted: 0, repeats: [0] });
    const old = { ...line(merchant, 'a'), origin: `${OLD_ORIGIN}batch:0` };
    expect(await db.journal.append({ source: 'stream', lines: [old] })).toMatchObject({ inserted: 0, repeats: [] });
  });

  test('is found a repeat by each of many who append it at once, except the one that counted', async () => {
    const merchant = newMerchant();
    const results = await Promise.all(Array.from({ length: 12 }, () => append([line(merchant, 'a')])));
    expect(results.map(({ inserted, repeats }) => inserted + repeats.length)).toEqual(results.map(() => 1));
    expect(results.reduce((sum, { inserted }) => sum + inserted, 0)).toBe(1);
  });
});

test('a batch whose lease was lost counts nothing', async () => {
  const merchant = newMerchant();
  await db.shards.count(4);
  const fence = (await db.shards.take([1, 2], 2, 'one', 60_000))!;
  const lines = withOrigins([line(merchant, 'a')]);
  await expect(
    db.journal.append({ source: 'stream', lines, fence: { ...fence, token: fence.token - 1n } }),
  ).rejects.toThrow(LeaseLostError);
  expect(await db.events.recent(merchant, 10)).toEqual([]);
  expect(await db.journal.append({ source: 'stream', lines, fence })).toMatchObject({ inserted: 1 });
});

test('a sum that would pass 64 bits is refused with its code, and nothing of the batch is counted', async () => {
  const merchant = newMerchant();
  const huge = (id: string) => line(merchant, id, { prompt_tokens: '9000000000000000000' });
  await append([huge('a')]);
  await expect(append([huge('b')])).rejects.toMatchObject({ code: 'TOTAL_LIMIT' });
  const [row] = await db.usage.merchantUsage({
    merchantIds: [merchant],
    startDate: '2026-03-01',
    endDate: '2026-03-01',
    metricTypes: ['prompt_tokens'],
  });
  expect(row?.metric_value).toBe(9_000_000_000_000_000_000n);
});
