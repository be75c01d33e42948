import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import pg from 'pg';
import { hashOfSources } from '../sources.mjs';

/** The addresses of the test servers. */
export function serverUrls(): { databaseUrl: string; redisUrl: string } {
  const { TEST_REDIS_URL: redisUrl, TEST_DATABASE_URL: databaseUrl } = process.env;
  if (!databaseUrl || !redisUrl) throw new Error('No test servers: run through vitest with tallyProject()');
  return { databaseUrl, redisUrl };
}

export type FreshStore = { url: string; drop(): Promise<void> };

const TEMPLATE = 'tally_template';
const DB = fileURLToPath(new URL('../../db', import.meta.url));
const SETUP_LOCK = 7430;

/**
 * Creates a database of its own, cloned from a template that `prepare` filled once per run of the servers. Without
 * `prepare` it is empty. With CITUS_DATABASE_URL a prepared one is there, distributed over the nodes that are added to
 * that database, unless the test is about what one node does (`onOneNode`).
 */
export async function freshDatabase(
  prepare?: (url: string) => Promise<unknown>,
  { onOneNode = false } = {},
): Promise<FreshStore> {
  const { databaseUrl } = serverUrls();
  const { CITUS_DATABASE_URL: citusUrl } = process.env;
  const name = `test_${randomBytes(6).toString('hex')}`;
  if (prepare && citusUrl && !onOneNode) return onCitus(citusUrl, name, prepare);
  if (prepare) await ensureTemplate(databaseUrl, prepare);
  await onServer(databaseUrl, (client) =>
    client.query(prepare ? `create database ${name} template ${TEMPLATE}` : `create database ${name}`),
  );
  return {
    url: withPath(databaseUrl, name),
    drop: () => onServer(databaseUrl, (client) => client.query(`drop database if exists ${name} with (force)`)),
  };
}

/** Each node clones its part of a database that was distributed once for these sources of `packages/db`. */
async function onCitus(
  citusUrl: string,
  name: string,
  prepare: (url: string) => Promise<unknown>,
): Promise<FreshStore> {
  const template = `${TEMPLATE}_${hashOfSources(DB).slice(0, 12)}`;
  const nodes = [citusUrl];
  await onServer(citusUrl, async (client) => {
    // One at a time: adding a node writes roles, and those are of all databases.
    await client.query('select pg_advisory_lock($1)', [SETUP_LOCK]);
    const workers = 'select nodename, nodeport from pg_dist_node where groupid > 0 order by nodeid';
    for (const { nodename, nodeport } of (await client.query(workers)).rows)
      nodes.push(withHost(citusUrl, nodename, nodeport));
    const { rowCount } = await client.query('select 1 from pg_database where datname = $1', [template]);
    if (!rowCount) await distributeTemplate(nodes, template, prepare);
  });
  await onEach(nodes, `create database ${name} template ${template}`);
  return {
    url: withPath(citusUrl, name),
    // The coordinator's first: it ends its connections to the workers.
    drop: () => onEach(nodes, `drop database if exists ${name} with (force)`),
  };
}

async function distributeTemplate(
  nodes: readonly string[],
  template: string,
  prepare: (url: string) => Promise<unknown>,
): Promise<void> {
  const [coordinator, ...workers] = nodes.map((node) => new URL(node));
  const draft = `${template}_${randomBytes(4).toString('hex')}`;
  const url = withPath(nodes[0]!, draft);
  // Left where an earlier run was ended half-way through its renames.
  await onEach(nodes, `drop database if exists ${template} with (force)`);
  await onEach(nodes, `create database ${draft}`);
  for (const node of nodes) await onServer(withPath(node, draft), (client) => client.query('create extension citus'));
  if (workers.length > 0)
    await onServer(url, async (client) => {
      await client.query('select citus_set_coordinator_host($1, $2)', [coordinator!.hostname, coordinator!.port]);
      for (const { hostname, port } of workers) await client.query('select citus_add_node($1, $2)', [hostname, port]);
    });
  await prepare(url);
  const env = { ...process.env, DATABASE_URL: url, CITUS_SHARDS: '4' };
  await promisify(execFile)(process.execPath, [join(DB, 'dist/distribute.js'), '--yes'], { env });
  // Citus keeps connections to each of its databases, and a template must have none.
  await onEach(nodes, `alter database ${draft} allow_connections false`);
  await onEach(nodes, `select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = '${draft}'`);
  for (const node of [...nodes].reverse())
    await onServer(node, (client) => client.query(`alter database ${draft} rename to ${template}`));
}

async function onEach(servers: readonly string[], statement: string): Promise<void> {
  for (const server of servers) await onServer(server, (client) => client.query(statement));
}

async function ensureTemplate(databaseUrl: string, prepare: (url: string) => Promise<unknown>): Promise<void> {
  await onServer(databaseUrl, async (client) => {
    await client.query('select pg_advisory_lock($1)', [SETUP_LOCK]);
    const { rowCount } = await client.query('select 1 from pg_database where datname = $1', [TEMPLATE]);
    if (rowCount) return;
    // Named only when complete, so that an interrupted run leaves no half template.
    const draft = `${TEMPLATE}_${randomBytes(4).toString('hex')}`;
    await client.query(`create database ${draft}`);
    await prepare(withPath(databaseUrl, draft));
    await client.query(`alter database ${draft} rename to ${TEMPLATE}`);
  });
}

/** Returns a logical database of the test Redis for one file only. */
export async function freshRedis(): Promise<FreshStore> {
  const { redisUrl } = serverUrls();
  const client = new Redis(redisUrl);
  try {
    const index = await client.incr('testkit:databases');
    const url = withPath(redisUrl, String(index));
    return {
      url,
      async drop() {
        const own = new Redis(url);
        await own.flushdb();
        await own.quit();
      },
    };
  } finally {
    await client.quit();
  }
}

async function onServer<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

function withHost(url: string, host: string, port: number): string {
  const changed = new URL(url);
  changed.hostname = host;
  changed.port = String(port);
  return changed.toString();
}

function withPath(url: string, path: string): string {
  const changed = new URL(url);
  changed.pathname = `/${path}`;
  return changed.toString();
}
