import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { GroupRow, Question } from './usage-reader.ts';

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

test('pages that rank groups first, and first users, equal pages of all sums, also where sums cancel out', async () => {
  const database: FreshStore = await freshDatabase(migrate);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const db: Db = await openDb(database.url);
  try {
    // All combinations of -1, 0 and 1 in five measures; every fifth is taken back on the second day.
    await client.query(`
      insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, failed_requests,
        prompt_tokens, completion_tokens, cost)
      select 'm' || n % 3, date, case n when 7 then '' else 'user-' || n % 40 end, n, 'model-' || n % 4, 'p' || n % 2,
        sign * (n % 3 - 1), sign * (n / 3 % 3 - 1), sign * (n / 9 % 3 - 1), sign * (n / 27 % 3 - 1), sign * (n / 81 - 1)
      from generate_series(0, 242) as n,
        (values ('2026-01-01'::date, 1), ('2026-01-02', -1)) as day (date, sign)
      where date = '2026-01-01' or n % 5 = 0`);
    const parts = [{ cube: 'usage_daily' as const, startDate: '2026-01-01', endDate: '2026-01-02' }];
    const groupings = ['user', 'model', 'merchant', ['user', 'model'], ['merchant', 'user']] as const;
    const sorts = ['cost', 'requests', 'failedRequests', 'promptTokens', 'totalTokens', 'key'] as const;
    for (const [at, sortBy] of sorts.entries())
      for (const by of groupings) {
        const order = at % 2 === 0 ? ('desc' as const) : ('asc' as const);
        const question = { parts, by: typeof by === 'string' ? by : [...by], sortBy, order } as Omit<Question, 'limit'>;
        const whole = await db.usage.breakdown({ ...question, limit: 200 });
        expect(whole.total).toBe(whole.rows.length);
        const ranked = { ...question, limit: 30, totals: parts };
        const rows: GroupRow[] = [];
        for (let after: Question['after']; ; ) {
          const page = await db.usage.breakdown({ ...ranked, after });
          expect(page).toMatchObject({ total: whole.total, totals: whole.totals });
          rows.push(...page.rows);
          const last = page.rows.at(-1);
          if (!last) break;
          after = { value: last.sort_value, keys: last.keys };
        }
        expect(rows, JSON.stringify(question)).toEqual(whole.rows);
      }

    // A summary shows the first users with requests or costs, of all merchants or of one.
    for (const filters of [{}, { merchantIds: ['m2'] }]) {
      const { rows } = await db.usage.breakdown({
        ...filters,
        ...{ parts, by: 'user', sortBy: 'cost', order: 'desc', limit: 200 },
      });
      const shown = rows.filter(
        ({ keys, requests, cost }) => keys[0] !== 'unknown' && (requests !== 0n || cost !== 0n),
      );
      expect(shown.length).toBeGreaterThan(1);
      for (const users of [1, 200]) {
        const all = { users: parts, models: parts, days: parts };
        const overview = await db.usage.overview({ ...filters, parts: all, limits: { users, models: 1 } });
        expect(overview.users).toEqual(shown.slice(0, users));
      }
    }
  } finally {
    await db.close();
    await client.end();
    await database.drop();
  }
});

test('lists no provider of a model whose sums cancel out', async () => {
  const database: FreshStore = await freshDatabase(migrate);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const db: Db = await openDb(database.url);
  try {
    await client.query(`
      insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, cost)
      values ('acme', '2026-01-01', '', '', 'm', 'kept', 1, 5), ('acme', '2026-01-01', '', '', 'm', 'voided', 1, 7),
        ('acme', '2026-01-02', '', '', 'm', 'voided', -1, -7)`);
    const parts = [{ cube: 'usage_daily' as const, startDate: '2026-01-01', endDate: '2026-01-02' }];
    const expected = [{ providers: ['kept'], requests: 1n, cost: 5n }];
    const { rows } = await db.usage.breakdown({ parts, by: 'model', sortBy: 'cost', order: 'desc', limit: 10 });
    expect(rows).toMatchObject(expected);
    for await (const piece of db.usage.scan({ parts, by: 'model' })) expect(piece).toMatchObject(expected);
    const limits = { users: 1, models: 1 };
    const { models } = await db.usage.overview({ parts: { users: parts, models: parts, days: parts }, limits });
    expect(models).toMatchObject(expected);
  } finally {
    await db.close();
    await client.end();
    await database.drop();
  }
});
