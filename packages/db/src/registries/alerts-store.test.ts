import { freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { sql } from '../run-sql.ts';
import { migrate } from '../schema.ts';

type Plan = { 'Actual Rows': number; 'Rows Removed by Filter'?: number; Plans?: Plan[] };

const rowsRead = (plan: Plan): number =>
  Math.max(plan['Actual Rows'] + (plan['Rows Removed by Filter'] ?? 0), ...(plan.Plans ?? []).map(rowsRead));

test('a page of deliveries of one state, or of one webhook, does not read all others', async () => {
  // Plans of one node: Citus prints its own.
  const { url, drop } = await freshDatabase(migrate, { onOneNode: true });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows: webhooks } = await client.query(
    `insert into webhooks (url, secret, events, created_by)
     select 'https://hooks.example.com/' || n, 'secret', '{}', 'admin' from generate_series(1, 2) as n returning id`,
  );
  await client.query(
    `insert into webhook_deliveries (webhook_id, event, body, status, next_attempt_at, give_up_at, created_at)
     select case when n > 20000 then $1 else $2 end::uuid, 'webhook.test', '{}',
       case when n > 20000 then 'failed' else 'delivered' end, now(), now(), now() - n * interval '1 second'
     from generate_series(1, 20010) as n`,
    webhooks.map(({ id }) => id),
  );
  await client.query('analyze webhook_deliveries');
  for (const [webhook, status] of [
    [webhooks[0].id, null],
    [null, 'failed'],
    [null, 'pending'],
  ]) {
    const text = `explain (analyze, format json) ${sql('list-deliveries')}`;
    const { rows } = await client.query(text, [webhook, status, null, 50]);
    expect(rowsRead(rows[0]['QUERY PLAN'][0].Plan)).toBeLessThanOrEqual(10);
  }
  await client.end();
  await drop();
});
