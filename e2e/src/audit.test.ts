import {
  type AuditRow,
  analytics,
  type Contract,
  dayOf,
  engine,
  ingest,
  isAudited,
  isProcedure,
  type Procedure,
} from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** Every administrative mutation of every service leaves one row in the audit log, however it ends. */
const KEY = 'the-admin-key-of-the-platform';
const TODAY = dayOf(Date.now());
const RANGE = { startDate: TODAY, endDate: TODAY };
const UNKNOWN = '00000000-0000-4000-8000-000000000000';

type Input = Record<string, unknown>;
const contracts: Record<string, Contract> = {
  'usage-ingest': ingest,
  'metrics-engine': engine,
  'analytics-api': analytics,
};
const audited = Object.entries(contracts).flatMap(([service, contract]) =>
  flatten(contract)
    .filter(([, procedure]) => isAudited(procedure))
    .map(([path]) => ({ service, path })),
);

let services: Record<string, ServiceProcess> = {};
let releases: (() => Promise<unknown>)[] = [];
let client: IngestClient;
/** An admin's key whose use is checked; calls between the services have another actor. */
let actor: { id: string; key: string };
const ids: Record<string, string> = {};

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
  releases = [...Object.values(services).map((service) => () => service.stop()), database.drop, redis.drop];
  client = createIngestClient({ url: usageIngest.url, key: KEY });
  const postgres = new pg.Client({ connectionString: database.url });
  await postgres.connect();
  await postgres.query(`
    create view seats as select 'acme' as account, 1 as seats, date '2026-03-01' as day;
    grant select on seats to tally_reader`);
  await postgres.end();
  actor = await client.keys.create.mutate({ name: 'auditor', role: 'admin' });
  for (const name of ['revoked', 'rotated']) {
    ids[name] = (await client.keys.create.mutate({ name, role: 'viewer' })).id;
  }
  for (const name of ['updated', 'removed']) {
    const { body } = await call('metrics-engine', 'custom.create', definition(name), KEY);
    ids[name] = (body as { result: { data: { id: string } } }).result.data.id;
  }
});

afterAll(async () => {
  for (const release of releases) await release();
});

const definition = (name: string) => ({
  name,
  metricType: 'COUNT',
  dataSource: 'usage',
  calculationFormula: 'COUNT(*)',
  visibility: 'PRIVATE',
});

/** An input for every administrative mutation, and its outcome here. */
const CALLS: Record<string, { input?: () => Input; outcome?: string }> = {
  'usage.adjust': {
    input: () => ({ id: 'x', merchantId: 'acme', date: TODAY, metrics: { queries: '1' }, reason: 'why' }),
  },
  'usage.void': { input: () => ({ merchantId: 'acme', id: 'nobody sent it', reason: 'why' }), outcome: 'NOT_FOUND' },
  'users.erase': { input: () => ({ merchantId: 'acme', userId: 'ada' }) },
  'reconcile.rebuild': { input: () => RANGE },
  'reconcile.repair': {},
  'deadLetters.retry': {},
  'journal.close': {},
  'flush.run': {},
  'flush.merchant': { input: () => ({ merchantId: 'acme' }) },
  'flush.range': { input: () => RANGE },
  'keys.create': { input: () => ({ name: 'another', role: 'producer', merchantId: 'acme' }) },
  'keys.rotate': { input: () => ({ id: ids.rotated }) },
  'keys.revoke': { input: () => ({ id: ids.revoked }) },
  'meters.create': { input: () => ({ key: 'calls', aggregation: 'COUNT' }) },
  'meters.update': { input: () => ({ key: 'calls', name: 'Calls' }) },
  'meters.rebuild': { input: () => ({ key: 'calls', ...RANGE }) },
  'meters.remove': { input: () => ({ key: 'unheard_of' }), outcome: 'NOT_FOUND' },
  'prices.set': { input: () => ({ component: 'request', amount: '1', per: 1, validFrom: `${TODAY}T00:00:00Z` }) },
  'prices.remove': { input: () => ({ id: '999999' }), outcome: 'NOT_FOUND' },
  'prices.import': {
    // A cost map without prices.
    input: () => ({ source: 'litellm', file: '{}', validFrom: `${TODAY}T00:00:00Z` }),
    outcome: 'INVALID_INPUT',
  },
  'prices.rerate': { input: () => ({ ...RANGE, dryRun: false }) },
  'bills.import': {
    input: () => ({
      provider: 'anthropic',
      file: 'usage_date_utc,model,token_type,cost_usd\n2026-01-01,Claude Haiku 4.5,output,1\n',
      dryRun: false,
    }),
  },
  'bills.remove': { input: () => ({ id: '999999' }), outcome: 'NOT_FOUND' },
  'budgets.create': {
    input: () => ({
      scope: { merchantId: 'acme' },
      measure: 'cost',
      limit: '50',
      period: 'month',
      enforcement: 'soft',
    }),
  },
  'budgets.update': { input: () => ({ id: UNKNOWN, name: 'other' }), outcome: 'NOT_FOUND' },
  'budgets.remove': { input: () => ({ id: UNKNOWN }), outcome: 'NOT_FOUND' },
  'rollups.daily.run': { input: () => ({ date: TODAY }) },
  'rollups.weekly.run': { input: () => ({ date: TODAY }) },
  'rollups.monthly.run': { input: () => ({ date: TODAY }) },
  'rollups.daily.backfill': { input: () => RANGE },
  'rollups.weekly.backfill': { input: () => RANGE },
  'rollups.monthly.backfill': { input: () => RANGE },
  'rollups.refresh': {},
  'jobs.run': { input: () => ({ name: 'cleanup' }) },
  'jobs.retry': { input: () => ({ id: 'unheard-of' }), outcome: 'NOT_FOUND' },
  'realtime.reconcile': {},
  'custom.create': { input: () => definition('two') },
  'custom.update': { input: () => ({ id: ids.updated, description: 'better' }) },
  'custom.remove': { input: () => ({ id: ids.removed }) },
  'custom.sources.register': {
    input: () => ({
      ...{ name: 'seats', view: 'seats', merchantColumn: 'account', dateColumn: 'day' },
      columns: [{ name: 'seats', type: 'number' }],
    }),
  },
  'custom.sources.remove': { input: () => ({ name: 'seats' }) },
  'alerts.create': {
    input: () => ({ name: 'Quiet', on: 'silence', target: 'acme', condition: { minutes: 60 } }),
  },
  'alerts.update': { input: () => ({ id: UNKNOWN, name: 'other' }), outcome: 'NOT_FOUND' },
  'alerts.remove': { input: () => ({ id: UNKNOWN }), outcome: 'NOT_FOUND' },
  'webhooks.create': { input: () => ({ url: 'https://hooks.example.com/path' }) },
  'webhooks.update': { input: () => ({ id: UNKNOWN, events: [] }), outcome: 'NOT_FOUND' },
  'webhooks.remove': { input: () => ({ id: UNKNOWN }), outcome: 'NOT_FOUND' },
  'webhooks.replay': { input: () => ({ id: UNKNOWN }), outcome: 'NOT_FOUND' },
  'webhooks.test': { input: () => ({ id: UNKNOWN }), outcome: 'NOT_FOUND' },
  'directory.upsert': {
    input: () => ({ entries: [{ kind: 'user', id: 'u', name: 'U', merchantId: 'acme' }] }),
  },
  'directory.remove': { input: () => ({ kind: 'user', ids: ['u'], merchantId: 'acme' }) },
  'days.rebuild': { input: () => RANGE },
  'days.import': { input: () => ({ documents: [{ date: '2020-01-01', aggregated_by_user: {} }] }) },
  'cache.invalidate': { input: () => ({ ...RANGE, merchantIds: ['acme'] }) },
  'cache.warm': { input: () => RANGE },
  'cache.clear': {},
  'litellm.pull': { outcome: 'SOURCE_NOT_SET' },
};

test.each(audited)('$service: $path leaves one row', async ({ service, path }) => {
  expect(Object.keys(CALLS), 'a new administrative mutation is tried too').toContain(path);
  const { input = () => ({}), outcome = 'ok' } = CALLS[path]!;
  const before = await rowsOf({ action: path });
  const { status, body } = await call(service, path, input(), actor.key);
  expect(status < 300, JSON.stringify(body)).toBe(outcome === 'ok');
  const [row, ...others] = await rowsOf({ action: path });
  expect(others).toEqual(before);
  expect(row).toMatchObject({ service, action: path, actor: actor.id, role: 'admin', actorMerchantId: null, outcome });
});

test.each([
  ['keys.revoke', UNKNOWN],
  ['keys.rotate', UNKNOWN],
])('a failed %s leaves one row that says so', async (path, id) => {
  const before = await rowsOf({ action: path });
  expect((await call('usage-ingest', path, { id }, actor.key)).status).toBe(404);
  const [row, ...others] = await rowsOf({ action: path });
  expect(others).toEqual(before);
  expect(row).toMatchObject({ outcome: 'NOT_FOUND', targetId: id });
});

test('rows name what was changed, and no secret', async () => {
  const [created] = await rowsOf({ action: 'keys.create' });
  expect(created).toMatchObject({
    targetId: expect.stringMatching(/^[0-9a-f-]{36}$/),
    merchantIds: ['acme'],
    input: { name: 'another', role: 'producer', merchantId: 'acme' },
  });
  expect(JSON.stringify(await rowsOf({}))).not.toMatch(/tally_(producer|admin|viewer)_/);
});

test('the log is listed newest first, in pages, by day, actor and action', async () => {
  const all = await rowsOf({ actor: actor.id });
  expect(all.length).toBeGreaterThan(audited.length);
  expect(all.map(({ id }) => BigInt(id))).toEqual([...all.map(({ id }) => BigInt(id))].sort((a, b) => Number(b - a)));
  expect(await rowsOf({ actor: actor.id, limit: 7 })).toEqual(all);
  expect(await rowsOf({ actor: actor.id, ...RANGE })).toEqual(all.filter(({ at }) => at.startsWith(TODAY)));
  expect(await rowsOf({ actor: actor.id, endDate: '2020-01-01' })).toEqual([]);
  expect(await rowsOf({ actor: 'nobody' })).toEqual([]);
  const { nextCursor } = await client.audit.list.query({ limit: 1 });
  await expect(client.audit.list.query({ limit: 1, actor: 'admin', cursor: nextCursor! })).rejects.toMatchObject({
    data: { code: 'INVALID_CURSOR' },
  });
});

async function rowsOf(question: Input): Promise<AuditRow[]> {
  const found: AuditRow[] = [];
  for (let cursor: string | undefined; ; ) {
    const page = await client.audit.list.query({ ...question, ...(cursor && { cursor }) });
    found.push(...page.rows);
    if (page.nextCursor === null) return found;
    cursor = page.nextCursor;
  }
}

async function call(service: string, path: string, input: Input, key: string) {
  const response = await fetch(`${services[service]!.url}/trpc/${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(input),
  });
  return { status: response.status, body: (await response.json()) as unknown };
}

function flatten(contract: Contract, before = ''): [string, Procedure][] {
  return Object.entries(contract).flatMap(([name, node]): [string, Procedure][] =>
    isProcedure(node) ? [[`${before}${name}`, node]] : flatten(node, `${before}${name}.`),
  );
}
