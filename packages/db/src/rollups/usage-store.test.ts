import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';

test('a sum beyond 64 bits is exact, alone and among the reads of one moment', async () => {
  const database: FreshStore = await freshDatabase(migrate);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const db: Db = await openDb(database.url);
  try {
    await client.query(`
      insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, cost)
      values
        ('acme', '2026-01-01', 'ada', '', 'm', 'p', 1, 9000000000000000000),
        ('acme', '2026-01-02', 'ada', '', 'm', 'p', 1, 9000000000000000001),
        ('acme', '2026-01-02', 'eve', '', 'm', 'p', 1, 3)`);
    const parts = [{ cube: 'usage_daily' as const, startDate: '2026-01-01', endDate: '2026-01-02' }];
    const question = { parts, by: 'user', sortBy: 'cost', order: 'desc', limit: 10 } as const;
    const costs = {
      rows: [
        { keys: ['ada'], cost: 18000000000000000001n },
        { keys: ['eve'], cost: 3n },
      ],
    };
    const whole = { totals: { cost: 18000000000000000004n }, total: 2 };
    expect(await db.usage.breakdown(question)).toMatchObject({ ...costs, ...whole });
    const read = await db.usage.snapshot(async (reader) => ({
      users: await reader.activeUsers({ parts }),
      grouped: await reader.breakdown(question),
      whole: await reader.overview({
        parts: { users: parts, models: parts, days: parts },
        limits: { users: 1, models: 1 },
      }),
    }));
    expect(read).toMatchObject({
      ...{ users: 2, grouped: { ...costs, ...whole } },
      whole: {
        ...{
          activeUsers: 2,
          users: costs.rows.slice(0, 1),
          models: [{ keys: ['m'], providers: ['p'], ...whole.totals }],
        },
        byDay: [{ date: '2026-01-01' }, { date: '2026-01-02', cost: 9000000000000000004n }],
      },
    });
  } finally {
    await db.close();
    await client.end();
    await database.drop();
  }
});
