import { type Day, dayOf } from '@tally/contracts';
import { type FreshStore, freshDatabase, runsOf } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { LineToAppend } from './journal-line.ts';
import type { FlushSource } from './journal-store.ts';

const RUNS = runsOf({ short: 20, long: 60 });

let store: FreshStore;
let db: Db;
let client: pg.Client;
let serial = 0;

beforeAll(async () => {
  store = await freshDatabase(migrate);
  // A connection for each batch that is counted at the same time: on Citus, others would wait too long for one.
  db = await openDb(store.url, { poolSize: 40 });
  client = new pg.Client({ connectionString: store.url });
  await client.connect();
});

afterAll(async () => {
  await client.end();
  await db.close();
  await store.drop();
});

const MINUTE = 60_000;
const MIDNIGHT = Date.parse('2026-03-01T00:00:00Z');

type Copy = { id: number; minutes: number; tokens: number };

const copy: fc.Arbitrary<Copy> = fc.record({
  id: fc.integer({ min: 0, max: 2 }),
  minutes: fc.constantFrom(-1561, -1440, -720, -121, -120, -1, 0, 1, 119, 120, 720, 1320, 1440),
  tokens: fc.constantFrom(1, 1, 1, 20),
});
const batch = fc.record({
  copies: fc.array(copy, { minLength: 1, maxLength: 5 }),
  source: fc.constantFrom<FlushSource>('stream', 'stream', 'direct', 'backfill'),
  again: fc.boolean(),
});

const lineOf = (merchant_id: string, { id, minutes, tokens }: Copy, origin: string): LineToAppend => {
  const time = MIDNIGHT + minutes * MINUTE;
  const user_id = `user of ${id}`;
  return {
    ...{ merchant_id, date: dayOf(time), id: `e${id}`, time, user_id, requests: '1', origin },
    prompt_tokens: String(tokens),
    properties: { b: 1, a: true },
  };
};

/** The plain model: rows by day and id, and the day of each id around a midnight. */
class Model {
  readonly rows = new Map<string, number>();
  readonly days = new Map<string, Day>();
  readonly conflicts = new Set<string>();

  /** Counts a copy if it is the first of its identity; returns true if it conflicts with the first. */
  take({ id, minutes, tokens }: Copy): boolean {
    const time = MIDNIGHT + minutes * MINUTE;
    const [before, after] = [dayOf(time - 120 * MINUTE), dayOf(time + 120 * MINUTE)];
    let date = dayOf(time);
    // 120 minutes after a midnight are no longer near it.
    const near = before !== after && time !== Date.parse(`${after}T02:00:00Z`);
    if (near) {
      const claim = `${after} ${id}`;
      date = this.days.get(claim) ?? date;
      this.days.set(claim, date);
    }
    const identity = `${date} e${id}`;
    const first = this.rows.get(identity) ?? tokens;
    this.rows.set(identity, first);
    if (first === tokens) return false;
    this.conflicts.add(`${identity} ${tokens}`);
    return true;
  }
}

test('counts each identity once, on the day of its first copy, and stores every conflict, on every path', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(batch, { minLength: 1, maxLength: 5 }), async (batches) => {
      const merchant = `m${serial++}`;
      const model = new Model();
      for (const { copies, source, again } of batches) {
        const name = `b${serial++}`;
        const lines = copies.map((each, at) =>
          lineOf(merchant, each, source === 'stream' ? `${name}:${at}` : 'direct'),
        );
        const before = model.rows.size;
        const conflicts = copies.flatMap((each, at) => (model.take(each) ? [at] : []));
        const appended = await db.journal.append({ source, lines });
        expect(appended).toMatchObject({ inserted: model.rows.size - before, conflicts });
        // A crash between commit and removal: the same lines again.
        if (again) expect(await db.journal.append({ source, lines })).toMatchObject({ inserted: 0, conflicts });
      }
      const of = [merchant];
      const { rows: events } = await client.query(
        'select date::text as date, id, prompt_tokens from usage_events where merchant_id = $1',
        of,
      );
      const counted = events.map((row) => [`${row.date} ${row.id}`, Number(row.prompt_tokens)] as const);
      expect(new Map(counted)).toEqual(model.rows);
      const { rows: daily } = await client.query(
        'select coalesce(sum(prompt_tokens), 0)::int as tokens from usage_daily where merchant_id = $1',
        of,
      );
      expect(daily[0].tokens).toBe([...model.rows.values()].reduce((sum, tokens) => sum + tokens, 0));
      const stored = await db.conflicts.list({
        ...{ startDate: '2026-01-01', endDate: '2026-12-31', merchantIds: of, limit: 1_000 },
      });
      expect(new Set(stored.map((each) => `${each.date} ${each.entryId} ${each.line.prompt_tokens}`))).toEqual(
        model.conflicts,
      );
      for (const { digest, countedDigest } of stored) expect(digest).not.toBe(countedDigest);
    }),
    { numRuns: RUNS },
  );
});

test('copies on both sides of a midnight that are counted at the same time count once', async () => {
  const merchant = `m${serial++}`;
  await Promise.all(
    Array.from({ length: 40 }, (_, at) => {
      const copies = Array.from({ length: 10 }, (_, id) => ({ id, minutes: at % 2 === 0 ? -1 : 1, tokens: 1 }));
      const lines = copies.map((each, position) => lineOf(merchant, each, `c${at}:${position}`));
      return db.journal.append({ source: at % 3 === 0 ? 'direct' : 'stream', lines });
    }),
  );
  const { rows } = await client.query('select count(*)::int as events from usage_events where merchant_id = $1', [
    merchant,
  ]);
  expect(rows[0].events).toBe(10);
});

test('compares what the producer sent: zeros, the order of properties and times make no conflict', async () => {
  const merchant = `m${serial++}`;
  const first = lineOf(merchant, { id: 1, minutes: 600, tokens: 5 }, 'a:0');
  const append = async (more: object, at: number) => {
    const lines = [{ ...first, ...more, origin: `a:${at}` }];
    return (await db.journal.append({ source: 'stream', lines })).conflicts;
  };
  expect(await append({}, 1)).toEqual([]);
  expect(await append({ time: first.time + 1, properties: { a: true, b: 1 }, calls: '1', cost: '0' }, 2)).toEqual([]);
  expect(await append({ requests: '7', failed_requests: '7' }, 3)).toEqual([]);
  const others = [
    ...[{ user_id: 'x' }, { api_key: 'k' }, { model: 'm' }, { provider: 'p' }, { failed: true }, { calls: '2' }],
    ...[{ prompt_tokens: '6' }, { cost: '1' }, { metrics: { images: '1' } }, { properties: { a: true, b: 2 } }],
  ];
  for (const [at, more] of others.entries()) expect(await append(more, at + 10)).toEqual([0]);
  expect(await append({ prompt_tokens: '6', compared: true }, 50)).toEqual([]);
});

describe('while a day is closed', () => {
  /** Closes a day, stopped where it keeps the sums, while `work` runs. */
  async function closing(date: Day, work: () => Promise<void>): Promise<boolean> {
    await client.query('begin');
    await client.query('lock table usage_journal_closings in share mode');
    const closed = db.partitions.close(date);
    await expect.poll(async () => await waiting('usage_journal_closings')).toBe(1);
    await work();
    await client.query('commit');
    return closed;
  }
  const waiting = async (table: string) => {
    const { rows } = await client.query(
      'select count(*)::int as count from pg_locks where relation = $1::regclass and not granted',
      [table],
    );
    return rows[0].count as number;
  };
  const count = (date: Day, id: number) =>
    db.journal.append({
      source: 'direct',
      lines: [
        lineOf(`m${serial++}`, { id, minutes: (Date.parse(date) - MIDNIGHT) / MINUTE + 600, tokens: 1 }, 'direct'),
      ],
    });
  const deriveAll = async () => {
    while ((await db.derivations.derive(1_000)).flushes > 0);
    while ((await db.meters.derive(1_000)).flushes > 0);
  };

  test('events of other days are counted', async () => {
    await count('2025-03-01', 1);
    await deriveAll();
    const closed = await closing('2025-03-01', async () => {
      expect((await count('2025-03-02', 1)).inserted).toBe(1);
    });
    expect(closed).toBe(true);
    expect(await db.partitions.isClosed('2025-03-01')).toBe(true);
  });

  test('an event of the day keeps it open', async () => {
    await count('2025-03-03', 1);
    await deriveAll();
    const closed = await closing('2025-03-03', async () => {
      expect((await count('2025-03-03', 2)).inserted).toBe(1);
      await deriveAll();
    });
    expect(closed).toBe(false);
    expect(await db.partitions.isClosed('2025-03-03')).toBe(false);
    expect(await db.partitions.close('2025-03-03')).toBe(true);
    const { rows } = await client.query(
      `select sum(entries)::int as entries from usage_closed_days where date = '2025-03-03'`,
    );
    expect(rows).toEqual([{ entries: 2 }]);
  });

  test('a reader of the journal that does not end keeps it open, and stops nobody else', async () => {
    await count('2025-03-04', 1);
    await deriveAll();
    await client.query('begin');
    await client.query('select from usage_events limit 1');
    expect(await db.partitions.close('2025-03-04')).toBe(false);
    expect((await count('2025-03-05', 1)).inserted).toBe(1);
    await client.query('commit');
    expect(await db.partitions.close('2025-03-04')).toBe(true);
  });
});

test('a day that is closed forgets its claims and conflicts, and still takes no copy', async () => {
  const merchant = `m${serial++}`;
  const at = Date.parse('2025-01-02T00:00:00Z');
  const send = (minutes: number, tokens: number) =>
    db.journal.append({
      source: 'backfill',
      lines: [lineOf(merchant, { id: 1, minutes: (at - MIDNIGHT) / MINUTE + minutes, tokens }, 'direct')],
    });
  await send(-1, 1);
  expect(await send(1, 2)).toMatchObject({ inserted: 0, conflicts: [0] });
  expect(await db.partitions.close('2025-01-01')).toBe(false);
  while ((await db.derivations.derive(1_000)).flushes > 0);
  expect(await db.partitions.close('2025-01-01')).toBe(false);
  while ((await db.meters.derive(1_000)).flushes > 0);
  expect(await db.partitions.close('2025-01-01')).toBe(true);
  await expect(send(1, 1)).rejects.toMatchObject({ code: 'DAY_CLOSED' });
  expect(await db.partitions.close('2025-01-02')).toBe(true);
  const lines = [-60, 60, 72 * 60].map((minutes, id) =>
    lineOf(merchant, { id: id + 5, minutes: (at - MIDNIGHT) / MINUTE + minutes * 3, tokens: 1 }, 'direct'),
  );
  await expect(db.journal.append({ source: 'backfill', lines })).rejects.toMatchObject({
    code: 'DAY_CLOSED',
    details: { days: ['2025-01-01', '2025-01-02'] },
  });
  const { rows } = await client.query(
    `select (select count(*)::int from usage_midnight_days where merchant_id = $1) as claims,
       (select count(*)::int from usage_conflicts where merchant_id = $1) as conflicts`,
    [merchant],
  );
  expect(rows[0]).toEqual({ claims: 0, conflicts: 0 });
  await expect(send(1, 1)).rejects.toMatchObject({ code: 'DAY_CLOSED' });
});
