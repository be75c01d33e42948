import { freshDatabase } from '@tally/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { LineToAppend } from '../journal/journal-line.ts';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { ChangePlace } from './change-log-store.ts';

const DAYS = ['2026-11-20', '2026-11-21'] as const;
const OPEN_AT_ONCE = 4;
const SLOT = 'pg_backend_pid() % 16';

let db: Db;
let sql: pg.Client;
let drop: () => Promise<void>;
let lines = 0;
let worlds = 0;

beforeAll(async () => {
  const database = await freshDatabase(migrate);
  drop = database.drop;
  db = await openDb(database.url, { poolSize: OPEN_AT_ONCE + 4 });
  sql = new pg.Client({ connectionString: database.url });
  await sql.connect();
  // Connections whose process ids are equal modulo 16 share a slot of changes, and wait until the other one commits.
  const { rows } = await sql.query(`select pg_get_functiondef('count_platform_changes'::regproc) as text`);
  expect(rows[0].text).toContain(SLOT);
  await sql.query(rows[0].text.replace(SLOT, 'pg_backend_pid() % 32000'));
  // Creating the partition of a day blocks other creators until the transaction ends.
  await db.journal.append({ source: 'direct', lines: DAYS.map((day) => line('first', day)) });
});
afterAll(async () => {
  await sql.end();
  await db.close();
  await drop();
});

const line = (merchantId: string, date: string): LineToAppend => {
  const id = `e${++lines}`;
  const at = { merchant_id: merchantId, date, time: Date.parse(`${date}T12:00:00Z`) };
  return { ...at, id, requests: '1', prompt_tokens: '3', origin: id };
};

/** A transaction that has counted and waits to commit or to fail. */
function begin(lines: LineToAppend[]) {
  let end = (_commit: boolean) => {};
  const decided = new Promise<boolean>((resolve) => {
    end = resolve;
  });
  let reached = () => {};
  const counted = new Promise<void>((resolve) => {
    reached = resolve;
  });
  const beforeCommit = async () => {
    reached();
    if (!(await decided)) throw new Error('rolled back by the test');
  };
  const appending = db.journal.append({ source: 'direct', lines, beforeCommit });
  const done = appending.catch(() => {});
  return {
    merchantId: lines[0]!.merchant_id,
    // Fails with the transaction, if that fails before it has counted.
    counted: Promise.race([counted, appending]),
    end(commit: boolean) {
      end(commit);
      return done;
    },
  };
}

type Numbers = Map<string, string>;

/** A copy of the numbers of some merchants that follows the changes. */
function createCopy(prefix: string) {
  const numbers: Numbers = new Map();
  let place: ChangePlace | undefined;
  const isOurs = (merchantId: string) => merchantId.startsWith(prefix);
  return {
    numbers,
    /** Reads one page; returns whether there are more. */
    async read(limit: number): Promise<boolean> {
      const { rows, next, hasMore } = await db.changeLog.after(place, { limit });
      expect(rows.length).toBeLessThanOrEqual(limit);
      expect(new Set(rows.map(({ merchantId, date }) => `${date} ${merchantId}`)).size).toBe(rows.length);
      for (const { merchantId, date } of rows) {
        if (!isOurs(merchantId)) continue;
        for (const [key, value] of await numbersOf(merchantId, date)) numbers.set(key, value);
      }
      place = next;
      return hasMore;
    },
  };
}

async function numbersOf(merchant: string, date?: string): Promise<Numbers> {
  const { rows } = await sql.query(
    `select merchant_id, date::text, metric_type, metric_value from merchant_usage
     where merchant_id like $1 || '%' and ($2::date is null or date = $2)`,
    [merchant, date ?? null],
  );
  return new Map(rows.map((row) => [`${row.date} ${row.merchant_id} ${row.metric_type}`, row.metric_value]));
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('begin' as const), merchant: fc.nat(5), day: fc.nat(1) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('end' as const), which: fc.nat(9), commit: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('read' as const), limit: fc.constantFrom(1, 1, 2, 4) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('adjust' as const), merchant: fc.nat(5), day: fc.nat(1) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('break and rebuild' as const), merchant: fc.nat(5) }) },
);

test('a reader of changes gets every number, in whatever order transactions end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
      const prefix = `world${++worlds}-`;
      const copy = createCopy(prefix);
      const open: ReturnType<typeof begin>[] = [];
      for (const each of steps) {
        const merchantId = `${prefix}${'merchant' in each ? each.merchant : ''}`;
        if (each.do === 'begin') {
          // Two transactions that add to the same number would wait for each other.
          if (open.length === OPEN_AT_ONCE || open.some((other) => other.merchantId === merchantId)) continue;
          const transaction = begin([line(merchantId, DAYS[each.day]!)]);
          await transaction.counted;
          open.push(transaction);
        } else if (each.do === 'end') {
          const [ended] = open.splice(each.which % Math.max(open.length, 1), 1);
          await ended?.end(each.commit);
        } else if (each.do === 'read') {
          await copy.read(each.limit);
        } else if (open.length === 0 && each.do === 'adjust') {
          const id = `a${++lines}`;
          const dimensions = { userId: '', apiKey: '', model: '', provider: '' };
          const amounts = new Map([['prompt_tokens', 5n]]);
          await db.corrections.adjust({
            ...{ id, merchantId, date: DAYS[each.day]!, dimensions, amounts },
            ...{ reason: 'test', actor: 'test' },
          });
        } else if (open.length === 0 && each.do === 'break and rebuild') {
          await sql.query(`update merchant_usage set metric_value = 77 where merchant_id = $1`, [merchantId]);
          await db.rebuild.merchant(merchantId, DAYS[0], DAYS[1]);
        }
      }
      for (const transaction of open) await transaction.end(true);
      await settled();
      for (let pages = 0; await copy.read(1_000); pages++) expect(pages).toBeLessThan(200);
      expect(copy.numbers).toEqual(await numbersOf(prefix));
    }),
    { numRuns: Number(process.env.FC_RUNS ?? 15) },
  );
});

/** Waits until all transactions that began so far have ended: those of other databases delay readers too. */
async function settled(): Promise<void> {
  const { rows } = await sql.query('select pg_current_xact_id() as now');
  await expect
    .poll(
      async () =>
        (await sql.query('select pg_snapshot_xmin(pg_current_snapshot()) > $1::xid8 as passed', [rows[0].now])).rows,
      { timeout: 60_000, interval: 20 },
    )
    .toEqual([{ passed: true }]);
}

type Page = Awaited<ReturnType<Db['changeLog']['after']>>;

/** Reads pages until there are no more. */
async function follow(
  place: ChangePlace | undefined,
  limit = 1_000,
): Promise<Pick<Page, 'rows'> & { place: ChangePlace }> {
  const rows: Page['rows'] = [];
  for (let pages = 0, at = place; pages < 200; pages++) {
    const page = await db.changeLog.after(at, { limit });
    rows.push(...page.rows);
    at = page.next;
    if (!page.hasMore) return { rows, place: at };
  }
  throw new Error('the changes have no end');
}

test.each([1, 10])('a reader of %i at once never passes a transaction that may still commit', async (limit) => {
  await settled();
  let { place } = await follow(undefined);
  const news = async () => {
    const found = await follow(place, limit);
    place = found.place;
    return found.rows.map(({ merchantId }) => merchantId);
  };
  const slow = begin([line('slow', DAYS[0])]);
  await slow.counted;
  for (const merchantId of ['quick-1', 'quick-2', 'quick-3']) await begin([line(merchantId, DAYS[0])]).end(true);
  expect(await news()).toEqual([]);
  await slow.end(true);
  await settled();
  expect(await news()).toEqual(['slow', 'quick-1', 'quick-2', 'quick-3']);
});

test('a reader of one merchant gets its days alone, and goes on past those of others', async () => {
  const day = DAYS[0];
  let place: ChangePlace | undefined;
  const read = async (limit = 10) => {
    const page = await db.changeLog.after(place, { limit, merchantIds: ['mine'] });
    place = page.next;
    return page;
  };
  await settled();
  while ((await read()).hasMore);
  const lines = ['other-1', 'mine', 'other-2', 'other-3'].map((merchantId) => line(merchantId, day));
  await db.journal.append({ source: 'direct', lines });
  await settled();
  expect(await read()).toMatchObject({ rows: [{ merchantId: 'mine', date: day }], hasMore: false });
  expect((await read()).rows).toEqual([]);
});

test('a place that was pruned starts over, a newer one goes on', async () => {
  const append = (merchantId: string) => db.journal.append({ source: 'direct', lines: [line(merchantId, DAYS[1])] });
  await settled();
  const old = await follow(undefined);
  await append('pruned-1');
  await append('pruned-2');
  await settled();
  const { rows } = await sql.query('select clock_timestamp() as now');
  const newer = await follow(old.place);
  expect(newer.rows.map(({ merchantId }) => merchantId)).toEqual(['pruned-1', 'pruned-2']);
  await append('kept');
  await settled();
  await db.changeLog.prune(rows[0].now);
  expect((await sql.query('select count(*)::int as count from usage_change_log')).rows).toEqual([{ count: 2 }]);
  expect((await follow(newer.place)).rows).toMatchObject([{ merchantId: 'kept', changedAt: expect.any(String) }]);
  const again = await follow(old.place);
  const all = again.rows.map(({ merchantId }) => merchantId);
  expect(all).toEqual(expect.arrayContaining(['mine', 'pruned-1', 'kept']));
  expect(again.rows.every(({ changedAt }) => changedAt === null)).toBe(true);
});

test('pruning ends before a younger row, which would hide that something is missing behind it', async () => {
  await settled();
  const { place } = await follow(undefined);
  const log = (merchantId: string, at: string) =>
    sql.query('insert into usage_change_log (at, merchant_ids, dates) values ($1, $2, $3)', [
      ...[at, [merchantId], [DAYS[0]]],
    ]);
  await log('young', 'now');
  for (const merchantId of ['old-1', 'old-2', 'old-3']) await log(merchantId, '2000-01-01');
  await settled();
  const { next } = await db.changeLog.after(place, { limit: 1 });
  await db.changeLog.prune(new Date('2000-01-02'));
  expect((await follow(next)).rows.map(({ merchantId }) => merchantId)).toEqual(['old-1', 'old-2', 'old-3']);
});
