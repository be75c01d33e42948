import type { UsageEntry } from '@tally/contracts';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
let sql: pg.Client;

beforeAll(async () => {
  ingest = await startIngest();
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
});
afterAll(async () => {
  await sql.end();
  await ingest.close();
});

type Scope = { merchantId: string; userId: string; apiKey: string; team: string; model: string };
const FIELDS = ['merchantId', 'userId', 'apiKey', 'team', 'model'] as const;

/** Every combination of the values of each field. */
const combine = (values: Record<(typeof FIELDS)[number], readonly string[]>): Scope[] =>
  FIELDS.reduce<Partial<Scope>[]>(
    (rows, field) => rows.flatMap((row) => values[field].map((value) => ({ ...row, [field]: value }))),
    [{}],
  ) as Scope[];

/** Every kind of scope, and thousands of budgets of other users and merchants beside them. */
const SCOPES = combine({
  ...{ merchantId: ['', 'one'], userId: ['', 'ada'], apiKey: ['', 'k-red'], team: ['', 'red'], model: ['', 'gpt'] },
});
const MANY = 2_000;
/** Usage with its team, which the directory knows: that of the key, else that of the user. */
const USAGE = combine({
  ...{ merchantId: ['one', 'two'], userId: ['', 'ada', 'bob'], apiKey: ['', 'k-red', 'k-blue'], team: [''] },
  model: ['gpt', 'other'],
}).map((usage) => ({
  ...usage,
  team: { 'k-red': 'red', 'k-blue': 'blue' }[usage.apiKey] ?? { ada: 'red' }[usage.userId] ?? '',
}));
const idOf = (usage: Scope) => FIELDS.map((field) => usage[field]).join('|');
const entryOf = ({ merchantId, userId, apiKey, model, ...usage }: Scope): UsageEntry => ({
  ...{ id: idOf({ merchantId, userId, apiKey, model, ...usage }), merchantId, time: '2026-11-22T10:00:00Z', model },
  ...{ ...(userId && { userId }), ...(apiKey && { apiKey }), metrics: { cost: '1' } },
});
/** The number of requests that a budget counts, looked up the simple way. */
const spentOf = (scope: Scope, usage: readonly Scope[]) =>
  usage.filter((each) => FIELDS.every((field) => scope[field] === '' || scope[field] === each[field])).length;

/** Inserts budgets directly: there is a pause after each change through the service. */
async function insertBudgets(scopes: readonly Scope[]): Promise<Map<string, Scope>> {
  const { rows } = await sql.query(
    `insert into budgets (name, merchant_id, user_id, api_key, team, model, measure, "limit", period, time_zone,
      enforcement, when_unavailable, thresholds, created_by)
    select 'b', m, u, k, t, o, 'requests', 1000, 'month', 'UTC', 'hard', 'allow', '{}', 'admin'
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as scope (m, u, k, t, o)
    returning id, merchant_id as "merchantId", user_id as "userId", api_key as "apiKey", team, model`,
    FIELDS.map((field) => scopes.map((scope) => scope[field])),
  );
  await sql.query('update budget_list set version = version + 1');
  return new Map(rows.map(({ id, ...scope }: Scope & { id: string }) => [id, scope]));
}

test('usage counts in every budget whose scope it has, among thousands of others', async () => {
  const directory = [
    ['user', 'ada', 'red'],
    ['apiKey', 'k-red', 'red'],
    ['apiKey', 'k-blue', 'blue'],
  ] as const;
  await ingest.db.directory.upsert(
    directory.map(([kind, id, team]) => ({
      ...{ kind, id, team, name: id, email: null, role: null, merchantId: null },
    })),
  );
  const budgets = await insertBudgets(SCOPES);
  await insertBudgets(
    Array.from({ length: MANY }, (_, n) => ({
      ...{ merchantId: n % 2 ? 'one' : '', userId: `user-${n}`, apiKey: '', team: '', model: '' },
    })),
  );
  const wanted = (usage: readonly Scope[]) =>
    Object.fromEntries([...budgets].map(([id, scope]) => [id, spentOf(scope, usage)]));
  /** The spend that Redis and Postgres show. */
  const shown = async () => {
    const { rows } = await ingest.admin.budgets.status.query();
    const own = rows.filter(({ budgetId }) => budgets.has(budgetId));
    return Object.fromEntries(own.map(({ budgetId, spent }) => [budgetId, Number(spent)]));
  };
  const stored = async () => {
    const { rows } = await sql.query('select budget_id, units from budget_spend where units <> 0');
    const units = new Map(rows.map((row) => [row.budget_id, Number(row.units)]));
    return Object.fromEntries([...budgets.keys()].map((id) => [id, units.get(id) ?? 0]));
  };
  // The list and the spend of its budgets are known once one is changed through the service.
  await ingest.admin.budgets.update.mutate({ id: [...budgets.keys()][0]!, name: 'all' });

  await ingest.admin.usage.record.mutate({ entries: USAGE.map(entryOf) });
  expect(await shown()).toEqual(wanted(USAGE));
  const asked = USAGE.find(({ userId, apiKey }) => userId === 'ada' && apiKey === 'k-red')!;
  const { merchantId, userId, apiKey, model } = asked;
  const { remaining } = await ingest.admin.budgets.check.query({ merchantId, userId, apiKey, model });
  const matching = [...budgets].filter(([, scope]) => spentOf(scope, [asked]) === 1).map(([id]) => id);
  expect(remaining.map(({ budgetId }) => budgetId).sort()).toEqual(matching.sort());
  await ingest.admin.flush.run.mutate({});
  expect(await stored()).toEqual(wanted(USAGE));
  await expect.poll(() => ingest.redis.hlen('budget:{all}:notes')).toBe(0);
  expect(await shown()).toEqual(wanted(USAGE));

  const [voided, kept] = [USAGE.filter((_, n) => n % 5 === 0), USAGE.filter((_, n) => n % 5 !== 0)];
  for (const usage of voided)
    await ingest.admin.usage.void.mutate({ merchantId: usage.merchantId, id: idOf(usage), reason: 'never happened' });
  expect(await stored()).toEqual(wanted(kept));
});
