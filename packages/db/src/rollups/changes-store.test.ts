import { freshDatabase } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';

const RANGE = { startDate: '2026-10-05', endDate: '2026-11-21' };
const SCOPES = { all: RANGE, ada: { ...RANGE, merchantIds: ['ada'] }, bob: { ...RANGE, merchantIds: ['bob'] } };

let db: Db;
let drop: () => Promise<void>;
let events = 0;

beforeAll(async () => {
  const database = await freshDatabase(migrate);
  drop = database.drop;
  db = await openDb(database.url);
});
afterAll(async () => {
  await db.close();
  await drop();
});

const count = (merchant_id: string, date: string) => {
  const id = `e${++events}`;
  const line = { merchant_id, date, id, time: Date.parse(date), requests: '1', origin: id };
  return db.journal.append({ source: 'direct', lines: [line] });
};
const name = (merchantId: string | null) =>
  db.directory.upsert([{ kind: 'user', id: 'u1', merchantId, name: `n${++events}`, email: null, role: null }]);

const versions = async () =>
  Object.fromEntries(
    await Promise.all(Object.entries(SCOPES).map(async ([key, scope]) => [key, await db.changes.versionOf(scope)])),
  );

test.each<[string, () => Promise<unknown>, (keyof typeof SCOPES)[]]>([
  ['an event in a whole month', () => count('ada', '2026-10-31'), ['all', 'ada']],
  ['an event on the first day', () => count('ada', '2026-10-05'), ['all', 'ada']],
  ['an event on the last day', () => count('bob', '2026-11-21'), ['all', 'bob']],
  ['an event on the day before the range', () => count('ada', '2026-10-04'), []],
  ['an event on the day after the range', () => count('ada', '2026-11-22'), []],
  ['an invalidated day', () => db.changes.touch({ ...RANGE, merchantIds: ['bob'] }), ['all', 'bob']],
  ['a name within a merchant', () => name('ada'), ['all', 'ada']],
  ['a name for all merchants', () => name(null), ['all', 'ada', 'bob']],
  ['a cleared cache', () => db.changes.touchAll(), ['all', 'ada', 'bob']],
])('%s raises the versions of the queries that it changes, and no other', async (_, change, raised) => {
  const before = await versions();
  await change();
  const after = await versions();
  expect(Object.keys(SCOPES).filter((key) => before[key] !== after[key])).toEqual(raised);
});

test('connections that write at the same time are all counted', async () => {
  const before = BigInt(await db.changes.versionOf(RANGE));
  await Promise.all(Array.from({ length: 20 }, (_, index) => count(`m${index}`, '2026-11-10')));
  expect(BigInt(await db.changes.versionOf(RANGE)) - before).toBeGreaterThanOrEqual(20n);
});
