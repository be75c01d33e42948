import { analytics, type Contract, dayOf, engine, ingest, isProcedure, type Procedure } from '@tally/contracts';
import {
  createAnalyticsClient,
  createEngineClient,
  createIngestClient,
  type EngineClient,
} from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** A key that is bound to one merchant neither sees nor touches another's state, whatever its role. */
const KEY = 'the-admin-key-of-the-platform';
const TODAY = dayOf(Date.now());
const RANGE = { startDate: TODAY, endDate: TODAY };
/** In every name of the other merchant, so that any answer that shows one is recognised. */
const MARK = 'theirs';

type Input = Record<string, unknown>;
const contracts: Record<string, Contract> = {
  'usage-ingest': ingest,
  'metrics-engine': engine,
  'analytics-api': analytics,
};
const procedures = Object.entries(contracts).flatMap(([service, contract]) =>
  flatten(contract).map(([path, procedure]) => ({ service, path, procedure })),
);
const platform = procedures.filter(({ procedure }) => procedure.platform);
const others = procedures.filter(({ procedure }) => !procedure.platform);

let services: Record<string, ServiceProcess> = {};
let releases: (() => Promise<unknown>)[] = [];
let client: pg.Client;
let realtime: EngineClient['realtime'];
let bound: string;
let ids: { mine: string; public: string; theirs: string; budget: string; theirBudget: string };

const entry = (merchantId: string, id: string) => ({
  id,
  merchantId,
  userId: `${merchantId}-user`,
  model: `${merchantId}-model`,
  apiKey: `${merchantId}-key`,
  metrics: { prompt_tokens: '5', [`${merchantId}_units`]: '7' },
});
const limit = { measure: 'requests', limit: '1000', period: 'month', enforcement: 'hard' } as const;
const formula = { metricType: 'COUNT', dataSource: 'usage', calculationFormula: 'COUNT(*)' } as const;

beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, LOG_LEVEL: 'fatal' };
  const usageIngest = await startServiceProcess('usage-ingest', { ...env, ENABLE_FLUSH: 'false' });
  const urls = { USAGE_INGEST_URL: usageIngest.url, ADMIN_CACHE_REBUILD_LIMIT: '1000' };
  services = {
    'usage-ingest': usageIngest,
    'metrics-engine': await startServiceProcess('metrics-engine', {
      ...env,
      ...urls,
      ENABLE_METRICS_SCHEDULER: 'false',
    }),
    'analytics-api': await startServiceProcess('analytics-api', { ...env, ...urls }),
  };
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  releases = [
    ...Object.values(services).map((service) => () => service.stop()),
    () => client.end(),
    database.drop,
    redis.drop,
  ];
  const tally = {
    ingest: createIngestClient({ url: usageIngest.url, key: KEY }),
    engine: createEngineClient({ url: services['metrics-engine']!.url, key: KEY }),
    analytics: createAnalyticsClient({ url: services['analytics-api']!.url, key: KEY }),
  };
  ({ realtime } = tally.engine);
  bound = (await tally.ingest.keys.create.mutate({ name: 'boss of mine', role: 'admin', merchantId: 'mine' })).key;
  await tally.ingest.usage.record.mutate({ entries: [entry('mine', 'a'), entry(MARK, 'a')] });
  await tally.ingest.flush.drain.mutate();
  await client.query(
    `insert into usage_dead_letters (merchant_id, date, entry_id, line, code, message)
     values ($1, $2, 'theirs-entry', '{}', 'REFUSED', 'theirs')`,
    [MARK, TODAY],
  );
  await tally.engine.rollups.daily.run.mutate({ date: TODAY });
  await tally.engine.realtime.increment.mutate({ name: 'theirs_calls', merchantId: MARK });
  const metric = (merchantId: string, visibility: 'PUBLIC' | 'ORGANIZATION') =>
    tally.engine.custom.create.mutate({ ...formula, name: `of ${merchantId}`, visibility, merchantId });
  const [own, theirs] = [await metric('mine', 'ORGANIZATION'), await metric(MARK, 'ORGANIZATION')];
  const shared = await metric('mine', 'PUBLIC');
  const budget = (merchantId: string) =>
    tally.ingest.budgets.create.mutate({ ...limit, scope: { merchantId }, name: `of ${merchantId}` });
  const [ownBudget, theirBudget] = [await budget('mine'), await budget(MARK)];
  ids = {
    ...{ mine: own.id, public: shared.id, theirs: theirs.id },
    ...{ budget: ownBudget.id, theirBudget: theirBudget.id },
  };
  await tally.engine.custom.calculate.mutate({ id: shared.id, ...RANGE, merchantId: MARK });
  await tally.analytics.directory.upsert.mutate({
    entries: [
      { kind: 'user', id: 'theirs-user', name: 'theirs', merchantId: MARK },
      { kind: 'merchant', id: MARK, name: 'Theirs Inc' },
    ],
  });
  for (const merchantId of ['mine', MARK])
    await tally.ingest.meters.create.mutate({ key: `${merchantId}_calls`, aggregation: 'COUNT', merchantId });
  // Pending in Redis, for nobody but its own merchant to flush.
  await tally.ingest.usage.record.mutate({ entries: [entry(MARK, 'waiting')] });
});

afterAll(async () => {
  for (const release of releases) await release();
});

/** What the merchant's own key may query or do, for every procedure that is not about all merchants. */
const OWN: Record<string, () => Input> = {
  'sessions.create': () => ({}),
  'sessions.current': () => ({}),
  'sessions.end': () => ({}),
  'usage.record': () => ({ entries: [entry('mine', 'b')] }),
  'usage.track': () => ({ merchantId: 'mine', metricType: 'queries' }),
  'usage.current': () => ({ merchantId: 'mine' }),
  'usage.recent': () => ({ merchantId: 'mine' }),
  'usage.explain': () => ({ merchantId: 'mine', date: TODAY, metricType: 'prompt_tokens' }),
  'usage.adjust': () => ({ id: 'x', merchantId: 'mine', date: TODAY, metrics: { queries: '1' }, reason: 'why' }),
  'usage.void': () => ({ merchantId: 'mine', id: 'a', reason: 'why' }),
  'users.erase': () => ({ merchantId: 'mine', userId: 'somebody' }),
  'usage.conflicts': () => RANGE,
  'usage.changes': () => ({}),
  'reconcile.check': () => RANGE,
  'reconcile.rebuild': () => RANGE,
  'deadLetters.list': () => ({}),
  'deadLetters.retry': () => ({}),
  'flush.merchant': () => ({ merchantId: 'mine' }),
  'prices.unpriced': () => RANGE,
  'budgets.create': () => limit,
  'budgets.update': () => ({ id: ids.budget, limit: '2000' }),
  'budgets.get': () => ({ id: ids.budget }),
  'budgets.list': () => ({}),
  'budgets.remove': () => ({ id: ids.budget }),
  'budgets.status': () => ({}),
  'budgets.check': () => ({ merchantId: 'mine' }),
  'budgets.reserve': () => ({ id: 'a', merchantId: 'mine', amounts: {} }),
  'budgets.reserveMany': () => ({ requests: [{ id: 'b', merchantId: 'mine', amounts: {} }] }),
  'budgets.settle': () => ({ reservationId: 'mine/a' }),
  'budgets.settleMany': () => ({ settlements: [{ reservationId: 'mine/b' }] }),
  'budgets.release': () => ({ reservationId: 'mine/a' }),
  'flush.drain': () => ({}),
  'flush.beforeRead': () => ({}),
  'meters.create': () => ({ key: 'own_calls', aggregation: 'COUNT' }),
  'meters.update': () => ({ key: 'own_calls', name: 'Calls' }),
  'meters.list': () => ({}),
  'meters.get': () => ({ key: 'own_calls' }),
  'meters.rebuild': () => ({ key: 'own_calls', ...RANGE }),
  'meters.remove': () => ({ key: 'mine_calls' }),
  'analytics.meter': () => ({ meter: 'own_calls', ...RANGE, groupBy: ['merchant'] }),
  'rollups.daily.list': () => RANGE,
  'rollups.weekly.list': () => RANGE,
  'rollups.monthly.list': () => RANGE,
  'realtime.increment': () => ({ name: 'calls' }),
  'realtime.gauge': () => ({ name: 'depth', value: '1' }),
  'realtime.observe': () => ({ name: 'took', value: '1' }),
  'realtime.mark': () => ({ name: 'came' }),
  'realtime.get': () => ({ name: 'calls' }),
  'realtime.list': () => ({}),
  'custom.create': () => ({ ...formula, name: 'another', visibility: 'PRIVATE' }),
  'custom.update': () => ({ id: ids.mine, description: 'better' }),
  'custom.test': () => ({ ...formula, ...RANGE, dimensions: ['merchant_id'] }),
  'custom.estimate': () => ({ ...formula, ...RANGE }),
  'custom.calculate': () => ({ id: ids.public, ...RANGE }),
  'custom.get': () => ({ id: ids.public }),
  'custom.list': () => ({}),
  'custom.versions': () => ({ id: ids.public }),
  'custom.values': () => ({ id: ids.public }),
  'custom.audit': () => ({ id: ids.public }),
  'custom.remove': () => ({ id: ids.mine }),
  'analytics.summary': () => RANGE,
  'analytics.breakdown': () => ({ ...RANGE, by: 'merchant' }),
  'analytics.timeseries': () => ({ ...RANGE, interval: 'hour', groupBy: 'model' }),
  'analytics.filterOptions': () => RANGE,
  'analytics.merchantUsage': () => ({ merchantId: 'mine', ...RANGE }),
  'analytics.refresh': () => ({}),
  'directory.upsert': () => ({ entries: [{ kind: 'user', id: 'u', name: 'U', merchantId: 'mine' }] }),
  'directory.list': () => ({ kind: 'merchant' }),
  'directory.remove': () => ({ kind: 'user', ids: ['u'], merchantId: 'mine' }),
  'cache.invalidate': () => ({ merchantIds: ['mine'], ...RANGE }),
  'cache.warm': () => RANGE,
};

/** Ways to name another merchant beside `merchantId` and `merchantIds`. */
const FOREIGN: Record<string, () => Input[]> = {
  'usage.record': () => [{ entries: [entry(MARK, 'c')] }],
  'budgets.create': () => [{ ...limit, scope: { merchantId: MARK } }],
  'budgets.update': () => [{ id: ids.theirBudget, limit: '1' }],
  'budgets.get': () => [{ id: ids.theirBudget }],
  'budgets.remove': () => [{ id: ids.theirBudget }],
  'budgets.status': () => [{ id: ids.theirBudget }],
  'budgets.reserveMany': () => [{ requests: [{ id: 'c', merchantId: MARK, amounts: {} }] }],
  'budgets.settleMany': () => [{ settlements: [{ reservationId: `${MARK}/a`, entry: entry(MARK, 'c') }] }],
  'budgets.settle': () => [{ reservationId: `${MARK}/a` }, { reservationId: 'mine/b', entry: entry(MARK, 'c') }],
  'budgets.release': () => [{ reservationId: `${MARK}/a` }],
  'custom.update': () => [{ id: ids.theirs, description: 'mine now' }],
  'custom.calculate': () => [{ id: ids.theirs, ...RANGE }],
  'custom.get': () => [{ id: ids.theirs }],
  'custom.versions': () => [{ id: ids.theirs }],
  'custom.values': () => [{ id: ids.theirs }],
  'custom.audit': () => [{ id: ids.theirs }],
  'custom.remove': () => [{ id: ids.theirs }],
  'directory.upsert': () => [
    { entries: [{ kind: 'user', id: 'theirs-user', name: 'x', merchantId: MARK }] },
    { entries: [{ kind: 'user', id: 'theirs-user', name: 'x' }] },
    { entries: [{ kind: 'merchant', id: MARK, name: 'x', merchantId: 'mine' }] },
  ],
  'directory.remove': () => [{ kind: 'merchant', ids: [MARK] }],
};

test.each(platform)(
  '$service: $path is about all merchants, so a bound key is refused',
  async ({ service, path, procedure }) => {
    const answer = await call(service, path, procedure, {});
    const data = { code: 'MERCHANT_FORBIDDEN', trpcCode: 'FORBIDDEN' };
    expect(answer).toMatchObject({ status: 403, body: { error: { data } } });
  },
);

test.each(others)(
  '$service: $path answers a bound key about its own merchant alone',
  async ({ service, path, procedure }) => {
    const before = await stateOfTheirs();
    if (procedure.kind !== 'subscription') {
      expect(Object.keys(OWN), 'a new procedure is tried too').toContain(path);
      const { status, body } = await call(service, path, procedure, OWN[path]!());
      expect([status, body]).toEqual([200, expect.anything()]);
      expect(JSON.stringify(body).toLowerCase()).not.toContain(MARK);
    }
    const own = OWN[path]?.() ?? { name: 'theirs_calls' };
    const named = [
      { ...own, merchantId: MARK },
      { ...own, merchantIds: [MARK] },
    ].filter((input) => procedure.input.safeParse(input).success);
    for (const input of [...named, ...(FOREIGN[path]?.() ?? [])]) {
      const { status, body } = await call(service, path, procedure, input);
      expect(JSON.stringify(body), JSON.stringify(input)).toMatch(/MERCHANT_FORBIDDEN|NOT_FOUND/);
      if (procedure.kind !== 'subscription') expect(status).toBeGreaterThanOrEqual(400);
    }
    expect(await stateOfTheirs()).toEqual(before);
  },
);

test('leaves pending events of the other merchant in Redis', async () => {
  const { rows } = await client.query('select id from usage_events where merchant_id = $1', [MARK]);
  expect(rows).toEqual([{ id: 'a' }]);
});

async function call(service: string, path: string, { kind }: Procedure, input: Input) {
  const url = `${services[service]!.url}/trpc/${path}`;
  const headers = { authorization: `Bearer ${bound}`, 'content-type': 'application/json' };
  const response =
    kind === 'mutation'
      ? await fetch(url, { method: 'POST', headers, body: JSON.stringify(input) })
      : await fetch(`${url}?input=${encodeURIComponent(JSON.stringify(input))}`, { headers });
  const text = await response.text();
  return { status: response.status, body: kind === 'subscription' ? text : (JSON.parse(text) as unknown) };
}

/**
 * Every row of the other merchant in Postgres, where a flush of its pending events would show, and its realtime metric:
 * the copy of it in Postgres is saved in the background.
 */
async function stateOfTheirs(): Promise<Record<string, string | undefined>> {
  const { rows: tables } = await client.query<{ name: string }>(
    `select c.table_name as name from information_schema.columns as c
     join information_schema.tables as t using (table_schema, table_name)
     where c.table_schema = 'public' and c.column_name = 'merchant_id' and t.table_type = 'BASE TABLE'
       and c.table_name <> 'realtime_metrics_cache'`,
  );
  const { value } = await realtime.get.query({ name: 'theirs_calls', merchantId: MARK });
  const state: Record<string, string | undefined> = { realtime: value };
  for (const { name } of tables) {
    const { rows } = await client.query(
      `select count(*) || ' ' || coalesce(md5(string_agg(each::text, ' ' order by each::text)), '') as digest
       from "${name}" as each where each.merchant_id = $1`,
      [MARK],
    );
    state[name] = rows[0].digest;
  }
  return state;
}

function flatten(contract: Contract, before = ''): [string, Procedure][] {
  return Object.entries(contract).flatMap(([name, node]): [string, Procedure][] =>
    isProcedure(node) ? [[`${before}${name}`, node]] : flatten(node, `${before}${name}.`),
  );
}
