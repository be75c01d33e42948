import type { PlanPart } from '@tally/contracts';
import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import type { DataSource } from 'typeorm';
import { expect, test } from 'vitest';
import { type Db, openDb } from '../open-db.ts';
import { sql } from '../run-sql.ts';
import { migrate } from '../schema.ts';
import type { GroupRow, Question } from './usage-reader.ts';
import { createUsageStore } from './usage-store.ts';

type Plan = { 'Relation Name'?: string; 'Rows Removed by Filter'?: number; Plans?: Plan[] };

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

test('a page ranks groups where more of them cancel out than are looked up, beside events that are not derived', async () => {
  const database: FreshStore = await freshDatabase(migrate);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const db: Db = await openDb(database.url);
  try {
    const date = '2026-01-05';
    await client.query(
      `create table usage_events_20260105 partition of usage_events for values from ('2026-01-05') to ('2026-01-06')`,
    );
    await client.query(`update usage_rolled_up set date = '2026-02-01'`);
    // Two users of each merchant: in its month, less their day; and an event that is not derived yet, of every third.
    await client.query(`
      insert into usage_monthly (merchant_id, month, user_id, api_key, model, provider, requests, prompt_tokens, cost)
      select 'm' || n % 600, '2026-01-01', 'user-' || n, '', '', '', 1, n % 2, n from generate_series(1, 1200) as n`);
    await client.query(`
      insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, cost)
      select merchant_id, '2026-01-05', user_id, '', '', '', requests, cost from usage_monthly where cost > 20`);
    await db.journal.append({
      source: 'direct',
      lines: Array.from({ length: 400 }, (_, n) => ({
        ...{ merchant_id: `m${n}`, date, id: `e${n}`, time: Date.parse(date), user_id: `user-${n * 3}` },
        ...{ requests: '1', cost: String(n % 7), origin: `1:${n}` },
      })),
    });
    const month = { startDate: '2026-01-01', endDate: '2026-01-31' };
    const parts: PlanPart[] = [
      { cube: 'usage_monthly', ...month },
      { cube: 'usage_daily', startDate: date, endDate: date, less: true },
    ];
    for (const by of ['user', 'merchant', ['merchant', 'user']] as Question['by'][])
      for (const merchantIds of [undefined, ['m1', 'm2', 'm3']]) {
        const question = { parts, by, sortBy: 'cost', order: 'desc', limit: 200, merchantIds } as const;
        const whole = await db.usage.breakdown(question);
        expect(whole.rows.length).toBeGreaterThan(0);
        expect(await db.usage.breakdown({ ...question, totals: parts })).toEqual(whole);
      }
  } finally {
    await db.close();
    await client.end();
    await database.drop();
  }
});

test('a large merchant is read alone, also in a period in which others have most of the rows', async () => {
  const database: FreshStore = await freshDatabase(migrate, { onOneNode: true });
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    await client.query(`
      insert into usage_quarter_months (merchant_id, quarter_month, user_id, api_key, model, provider, requests)
      select merchant_id, quarter_month, 'user-' || n, '', '', '', 1
      from (
        select 'acme' as merchant_id, generate_series('2025-01-01'::date, '2025-12-01', '1 month') as quarter_month, 2000 as users
        union all
        select 'm' || generate_series(1, 4000), '2025-12-01', 5
      ) as period, generate_series(1, users) as n
      order by 2, 1`);
    await client.query('vacuum (analyze) usage_quarter_months');
    const read = [sql('pending-flushes'), sql('schema/is-distributed')];
    const removed: number[] = [];
    const walk = (plan: Plan): void => {
      if (plan['Relation Name'] === 'usage_quarter_months') removed.push(plan['Rows Removed by Filter'] ?? 0);
      for (const each of plan.Plans ?? []) walk(each);
    };
    const query = async (text: string, values: unknown[]) => {
      const { rows } = await client.query(
        read.includes(text) ? text : `explain (analyze, format json) ${text}`,
        values,
      );
      if (!read.includes(text)) walk(rows[0]['QUERY PLAN'][0].Plan);
      return read.includes(text) ? rows : [{ rows: [], total: '0', unsure: 0 }];
    };
    const manager = { transaction: (_: string, work: () => Promise<unknown>) => work() };
    const dataSource = { query, createQueryRunner: () => ({ query, manager, release: async () => {} }) };
    const usage = createUsageStore(dataSource as unknown as DataSource);
    const parts: PlanPart[] = [{ cube: 'usage_quarter_months', startDate: '2025-12-01', endDate: '2025-12-08' }];
    const asked = usage.breakdown({
      parts,
      by: 'user',
      sortBy: 'cost',
      order: 'desc',
      limit: 50,
      merchantIds: ['acme'],
    });
    await expect(asked).rejects.toThrow();
    expect(removed).toEqual([0]);
  } finally {
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
