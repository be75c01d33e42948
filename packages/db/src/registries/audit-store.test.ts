import { freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';

test('pruning removes rows older than the retention and no other, however many there are', async () => {
  const { url, drop } = await freshDatabase(migrate);
  const db = await openDb(url);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const insert = (age: string, rows: number) =>
    client.query(
      `insert into audit_log (at, service, action, actor, role, merchant_ids, input)
       select now() - $1::interval, 'here', 'change', 'anna', 'admin', '{}', '{}' from generate_series(1, $2)`,
      [age, rows],
    );
  await insert('31 days', 20_500);
  await insert('29 days', 3);
  expect(await db.audit.prune(30)).toBe(20_500);
  expect(await db.audit.prune(30)).toBe(0);
  expect(await db.audit.list({ limit: 10 })).toHaveLength(3);
  await client.end();
  await db.close();
  await drop();
});
