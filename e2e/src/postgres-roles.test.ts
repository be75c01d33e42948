import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dayOf } from '@tally/contracts';
import { createAnalyticsClient, createEngineClient, createIngestClient } from '@tally/contracts/client';
import { migrate, openDb, undoMigrations } from '@tally/db';
import { freshRedis, startServiceProcess } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Servers, startServers } from '../../infra/local/servers.mjs';

const KEY = 'the-admin-key-of-the-platform';

let home: string;
let servers: Servers;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-roles-'));
  servers = await startServers({ home, durable: true });
});

afterAll(async () => {
  await servers.remove();
  await rm(home, { recursive: true });
});

async function query<Row extends object>(url: string, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const result = await client.query<Row>(text);
    return result.rows;
  } finally {
    await client.end();
  }
}

/** Returns the owners of objects in a database, except those of Postgres. */
const OWNERS = `
  select distinct pg_get_userbyid(owner) as owner from (
    select relowner as owner, relnamespace as space from pg_class
    union all select proowner, pronamespace from pg_proc
    union all select typowner, typnamespace from pg_type
    union all select nspowner, oid from pg_namespace where nspname <> 'public'
  ) as each join pg_namespace n on n.oid = space
  where nspname !~ '^pg_' and nspname <> 'information_schema'`;

describe('the private Postgres', () => {
  test('gives the services a role that owns its database and may nothing else', async () => {
    expect(
      await query(
        servers.databaseUrl,
        `select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles
         where rolname = current_user`,
      ),
    ).toEqual([
      { rolsuper: false, rolcreaterole: false, rolcreatedb: false, rolreplication: false, rolbypassrls: false },
    ]);
    for (const forbidden of [
      'create role other',
      'alter system set work_mem to 1',
      "copy (select 1) to program 'true'",
    ])
      await expect(query(servers.databaseUrl, forbidden)).rejects.toMatchObject({ code: '42501' });
  });

  test('hands data of an earlier version, which its superuser owns, over to that role', async () => {
    await migrate(servers.superuserUrl);
    const before = await openDb(servers.superuserUrl);
    const { id } = await before.keys.create({ name: 'from before', role: 'viewer' });
    await before.close();
    await query(servers.superuserUrl, 'alter database tally owner to tally; drop role tally_owner');
    expect(await query(servers.superuserUrl, OWNERS)).toEqual([{ owner: 'tally' }]);
    await servers.stop();
    await rm(join(home, 'postgres-owner-password'));

    servers = await startServers({ home, durable: true });
    expect(await query(servers.databaseUrl, OWNERS)).toEqual([{ owner: 'tally_owner' }]);
    const after = await openDb(servers.databaseUrl);
    expect(await after.keys.list({ includeRevoked: false, limit: 10 })).toMatchObject([{ id }]);
    await after.close();
    // The role can change what it owns.
    expect(await migrate(servers.databaseUrl)).toEqual([]);
    await undoMigrations(servers.databaseUrl);
    await migrate(servers.databaseUrl);
    expect(await query(servers.databaseUrl, OWNERS)).toEqual([{ owner: 'tally_owner' }]);
  });
});

describe("a Postgres of one's own", () => {
  let documented: string[];
  beforeAll(async () => {
    const text = await readFile(new URL('../../docs/operations.md', import.meta.url), 'utf8');
    documented = /```sql\n([\s\S]*?)```/.exec(text)![1]!.trim().split('\n');
    expect(documented).toHaveLength(5);
  });
  beforeEach(async () => {
    const url = withPath(servers.superuserUrl, 'postgres');
    for (const statement of [
      'drop database if exists tally with (force)',
      'drop role if exists tally_owner',
      'drop role if exists tally_reader',
      'drop role if exists tally_bi_reader',
    ])
      await query(url, statement);
  });

  test.each([
    ['with the documented rights', true],
    ['where the role of formulas cannot be made', false],
  ])(
    'is migrated and does all work of the services %s',
    async (_, hasReader) => {
      const statements = documented.filter((line) => hasReader || !line.includes('tally_reader'));
      for (const statement of statements) await query(withPath(servers.superuserUrl, 'postgres'), statement);
      const url = new URL(servers.databaseUrl);
      url.password = 'change-me';
      const DATABASE_URL = url.toString();
      await migrate(DATABASE_URL);
      const reads = `select exists (select from pg_roles where rolname = 'tally_reader'
      and pg_has_role(oid, 'member')) as found`;
      expect(await query(DATABASE_URL, reads)).toEqual([{ found: hasReader }]);
      await work(DATABASE_URL);
      await undoMigrations(DATABASE_URL);
    },
    350_000,
  );
});

/** Makes the services write to every group of tables once, partitions included. */
async function work(DATABASE_URL: string): Promise<void> {
  const redis = await freshRedis();
  const env = { DATABASE_URL, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, LOG_LEVEL: 'fatal' };
  const recording = await startServiceProcess('usage-ingest', env);
  const urls = { USAGE_INGEST_URL: recording.url };
  const computing = await startServiceProcess('metrics-engine', { ...env, ...urls, ENABLE_METRICS_SCHEDULER: 'false' });
  const answering = await startServiceProcess('analytics-api', { ...env, ...urls });
  const ingest = createIngestClient({ url: recording.url, key: KEY });
  const engine = createEngineClient({ url: computing.url, key: KEY });
  const analytics = createAnalyticsClient({ url: answering.url, key: KEY });
  const today = dayOf(Date.now());
  const range = { startDate: today, endDate: today };
  try {
    const entry = {
      id: 'a',
      merchantId: 'acme',
      userId: 'ann',
      model: 'm',
      metrics: { prompt_tokens: '5', cost: '1' },
    };
    expect(await ingest.usage.record.mutate({ entries: [entry] })).toMatchObject({ accepted: 1, rejected: [] });
    expect(await ingest.flush.run.mutate({ date: today })).toMatchObject({ success: true, errors: [] });
    expect(await ingest.reconcile.check.query(range)).toMatchObject({ balanced: true });
    expect(await ingest.reconcile.rebuild.mutate(range)).toMatchObject({ merchants: 1 });
    expect(await ingest.journal.close.mutate()).toEqual({ closed: [] });
    const { id } = await ingest.keys.create.mutate({ name: 'k', role: 'viewer' });
    await ingest.keys.rotate.mutate({ id });
    expect(await engine.rollups.daily.run.mutate({ date: today })).toMatchObject({ errors: [] });
    await engine.realtime.increment.mutate({ name: 'calls' });
    const metric = await engine.custom.create.mutate({
      name: 'cost per user',
      metricType: 'RATIO',
      dataSource: 'events',
      calculationFormula: 'SUM(cost) / COUNT(DISTINCT user_id)',
      visibility: 'PRIVATE',
    });
    expect(await engine.custom.calculate.mutate({ id: metric.id, ...range })).toMatchObject({ value: '1' });
    await analytics.directory.upsert.mutate({ entries: [{ kind: 'user', id: 'ann', name: 'Ann' }] });
    expect(await analytics.analytics.breakdown.query({ ...range, by: 'user' })).toMatchObject({
      rows: [{ key: 'ann', label: 'Ann', requests: '1' }],
      coverage: { complete: true },
    });
    await analytics.days.rebuild.mutate(range);
    expect((await ingest.audit.list.query()).rows.map(({ outcome }) => outcome)).not.toContain('failed');
  } finally {
    for (const service of [answering, computing, recording]) await service.stop();
    await redis.drop();
  }
}

function withPath(url: string, path: string): string {
  const changed = new URL(url);
  changed.pathname = `/${path}`;
  return changed.toString();
}
