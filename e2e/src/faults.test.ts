import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { addDays, dayOf } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type ServerHandle, type Servers, startServers } from '../../infra/local/servers.mjs';
import { type Acknowledged, startLoad } from '../chaos/load.mjs';

/**
 * Faults of the environment, each under load: everything acknowledged is counted, and callers see 200 or 503. Each
 * store is on a small disk of its own if this machine allows mounting one.
 */
const KEY = 'the-admin-key-of-the-faults';
const TODAY = dayOf(Date.now());
const RANGE = { startDate: addDays(TODAY, -3), endDate: TODAY };
const DISK_MIB = 600;
/** Batches go on all the time, and leave the processor to what they test: chaos sends without a pause. */
const PACE = { pauseMs: 50 };

type Disk = { home: string; small: boolean; fill(): Promise<void>; free(): Promise<void>; remove(): Promise<void> };

let disks: { postgres: Disk; redis: Disk };
let stores: { postgres: Servers; redis: Servers };
let services: { ingest: ServiceProcess; analytics: ServiceProcess };

beforeAll(async () => {
  disks = { postgres: await makeDisk('postgres'), redis: await makeDisk('redis') };
  stores = {
    postgres: await startServers({ home: disks.postgres.home, durable: true, only: ['postgres'] }),
    redis: await startServers({ home: disks.redis.home, durable: true, only: ['redis'] }),
  };
  const databaseUrl = stores.postgres.postgres.url;
  await migrate(databaseUrl);
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: stores.redis.redis.url,
    TALLY_ADMIN_KEY: KEY,
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    FLUSH_INTERVAL_MS: '50',
    LOG_LEVEL: 'fatal',
  };
  const ingest = await startServiceProcess('usage-ingest', env);
  services = {
    ingest,
    analytics: await startServiceProcess('analytics-api', { ...env, USAGE_INGEST_URL: ingest.url }),
  };
});

// Postgres keeps 2 GB of WAL between two checkpoints, more than the small disk holds.
afterEach(() => query('checkpoint', [], stores.postgres.superuserUrl));

afterAll(async () => {
  for (const service of Object.values(services ?? {})) await service.stop();
  for (const servers of Object.values(stores ?? {})) await servers.stop();
  for (const disk of Object.values(disks ?? {})) await disk.remove();
  for (const servers of Object.values(stores ?? {})) await servers.remove();
});

type Fault = { begin(): Promise<unknown>; end(): Promise<unknown> };

/** Load before, during and after a fault; everything acknowledged must be counted, and no caller sees a 500. */
async function endure(name: string, { begin, end }: Fault, whileBroken: () => Promise<void> = async () => {}) {
  const client = createIngestClient({ url: services.ingest.url, key: KEY });
  const load = startLoad(name, [{ client }], Math.random, PACE);
  const seen: number[] = [];
  await ask(seen);
  await begin();
  try {
    await ask(seen);
    await whileBroken();
  } finally {
    await end();
  }
  await bothOk();
  const acknowledged = await load.stop();
  expect(seen.filter((status) => status !== 200 && status !== 503)).toEqual([]);
  await expectCounted(acknowledged);
}

/** Calls that read, write and administer, on both services; adds their statuses to `seen`. */
async function ask(seen: number[]): Promise<void> {
  const { ingest, analytics } = services;
  const merchantId = 'asked';
  const entry = { id: `a${seen.length}`, merchantId, metrics: { queries: '1' } };
  const old = { ...entry, time: `${addDays(TODAY, -20)}T00:00:00Z` };
  const calls: [string, 'GET' | 'POST', string, object][] = [
    [ingest.url, 'POST', 'usage.record', { entries: [entry] }],
    [ingest.url, 'POST', 'usage.record', { entries: [old] }],
    [ingest.url, 'GET', 'usage.current', { merchantId }],
    [ingest.url, 'GET', 'usage.recent', { merchantId }],
    [ingest.url, 'GET', 'flush.status', {}],
    [ingest.url, 'GET', 'reconcile.check', { ...RANGE, merchantIds: [merchantId] }],
    [ingest.url, 'POST', 'keys.create', { name: 'made in a fault', role: 'viewer' }],
    [analytics.url, 'GET', 'analytics.summary', RANGE],
    [analytics.url, 'GET', 'analytics.breakdown', { ...RANGE, by: 'user' }],
    [analytics.url, 'GET', 'analytics.timeseries', { ...RANGE, interval: 'day' }],
    [analytics.url, 'POST', 'directory.upsert', { entries: [{ kind: 'user', id: 'u', name: 'U' }] }],
  ];
  const call = async ([url, method, path, input]: (typeof calls)[number]) => {
    const query = method === 'GET' ? `?input=${encodeURIComponent(JSON.stringify(input))}` : '';
    const { status } = await fetch(`${url}/trpc/${path}${query}`, {
      method,
      headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
      ...(method === 'POST' && { body: JSON.stringify(input) }),
    });
    seen.push(status);
  };
  const look = async (url: string) => {
    const answer = await fetch(`${url}/readyz`);
    seen.push(answer.status);
    expect(await answer.text()).not.toMatch(/127\.0\.0\.1|ECONN|No space|read-only transaction|too many clients/);
  };
  await Promise.all([...calls.map(call), ...[ingest.url, analytics.url].map(look)]);
}

type Readiness = { ok: boolean; degraded?: boolean };

async function readiness(): Promise<Readiness> {
  return (await (await fetch(`${services.ingest.url}/readyz`)).json()) as Readiness;
}

async function bothOk(): Promise<void> {
  for (const url of [services.ingest.url, services.analytics.url]) {
    await until(`${url} to be ready`, async () => (await fetch(`${url}/readyz`)).ok);
  }
  // A store that returns is checked before it is used.
  for (const store of ['postgres', 'redis']) await untilUsed(store);
}

async function untilDegraded(): Promise<void> {
  await until('a degraded /readyz', async () => (await readiness()).degraded === true);
}

async function expectCounted(acknowledged: Acknowledged): Promise<void> {
  const client = createIngestClient({ url: services.ingest.url, key: KEY });
  const merchantIds = [...acknowledged.keys()];
  // Postgres may return a moment after the services report that they work without it.
  await until('a drain', () => client.flush.drain.mutate({ merchantIds }).then(() => true, failsUnlessUnavailable));
  const rows = await query(
    'select merchant_id, date::text as date, id, prompt_tokens::text as tokens from usage_events where merchant_id = any($1)',
    [merchantIds],
  );
  const journal = new Map(rows.map((row) => [`${row.merchant_id} ${row.date} ${row.id}`, row.tokens]));
  const lost = [...acknowledged].flatMap(([merchantId, known]) =>
    [...known].filter(([identity, tokens]) => journal.get(`${merchantId} ${identity}`) !== tokens),
  );
  expect(lost).toEqual([]);
  const check = await client.reconcile.check.query({ ...RANGE, merchantIds });
  expect(check).toMatchObject({ balanced: true, drift: [] });
}

function failsUnlessUnavailable(error: { data?: { code?: string } }): false {
  if (error.data?.code === 'UNAVAILABLE') return false;
  throw error;
}

async function query(
  text: string,
  values: unknown[] = [],
  connectionString = stores.postgres.postgres.url,
): Promise<Record<string, string>[]> {
  const sql = new pg.Client({ connectionString });
  await sql.connect();
  try {
    return (await sql.query(text, values)).rows;
  } finally {
    await sql.end();
  }
}

const revive = async (handle: ServerHandle): Promise<void> => {
  const ended = await Promise.race([handle.exited?.then(() => true), wait(100).then(() => false)]);
  if (ended !== false) await handle.start();
};

test('a full disk of Postgres leaves Redis accepting, and all of it is counted when there is space', async ({
  skip,
}) => {
  if (!disks.postgres.small) skip('no disk could be mounted');
  await endure(
    'postgres-full',
    {
      begin: () => disks.postgres.fill(),
      end: async () => {
        await disks.postgres.free();
        await revive(stores.postgres.postgres);
      },
    },
    untilDegraded,
  );
});

test('a full disk of Redis leaves Postgres accepting', async ({ skip }) => {
  if (!disks.redis.small) skip('no disk could be mounted');
  await endure(
    'redis-full',
    {
      begin: () => disks.redis.fill(),
      end: async () => {
        await disks.redis.free();
        await revive(stores.redis.redis);
      },
    },
    untilDegraded,
  );
});

test('a read-only Postgres is 503 for what must be written there, and all that Redis took is counted later', async () => {
  const set = async (state: 'on' | 'off') => {
    await query(`alter database tally set default_transaction_read_only = ${state}`).catch(async () => {
      await query(`begin read write; alter database tally set default_transaction_read_only = ${state}; commit`);
    });
    await query(
      `select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and usename = current_user`,
    );
  };
  await endure('postgres-read-only', { begin: () => set('on'), end: () => set('off') }, untilDegraded);
});

test('a Postgres without free connections is 503 for questions, and loses nothing', async () => {
  const held: pg.Client[] = [];
  const take = async () => {
    for (;;) {
      const client = new pg.Client({ connectionString: stores.postgres.postgres.url });
      client.on('error', () => {});
      try {
        await client.connect();
        held.push(client);
      } catch {
        return;
      }
    }
  };
  await endure('connections-used-up', {
    begin: async () => {
      await query(
        `select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and usename = current_user`,
      );
      await take();
    },
    end: () => Promise.all(held.map((client) => client.end())),
  });
});

test.each(['postgres', 'redis'] as const)(
  'a %s that hangs does not stop acceptance, and /readyz answers meanwhile',
  async (name) => {
    const pid = () => (name === 'postgres' ? stores.postgres.postgres.pid! : stores.redis.redis.pid!);
    const family = () =>
      name === 'redis'
        ? [pid()]
        : [
            pid(),
            ...spawnSync('pgrep', ['-P', String(pid())], { encoding: 'utf8' })
              .stdout.split('\n')
              .filter(Boolean)
              .map(Number),
          ];
    let stopped: number[] = [];
    const signalAll = (signal: NodeJS.Signals) => {
      for (const each of stopped) process.kill(each, signal);
    };
    await endure(
      `${name}-hangs`,
      {
        begin: async () => {
          stopped = family();
          signalAll('SIGSTOP');
        },
        end: async () => signalAll('SIGCONT'),
      },
      // Answered while the store still hangs: only the first batches wait for it, so twenty take little longer than
      // one.
      async () => {
        await untilDegraded();
        for (let batch = 0; batch < 20; batch++) {
          const time = name === 'redis' || batch % 2 === 0 ? TODAY : addDays(TODAY, -20);
          expect(await recordOfMany(`${name}-${batch}`, time)).toBe(time === TODAY ? 200 : 503);
        }
      },
    );
  },
  340_000,
);

/** Sends a batch of 200 merchants; returns the status. */
async function recordOfMany(id: string, date: string): Promise<number> {
  const entries = Array.from({ length: 200 }, (_, index) => ({
    id,
    merchantId: `many-${index}`,
    time: `${date}T00:00:00Z`,
    metrics: { queries: '1' },
  }));
  const { status } = await fetch(`${services.ingest.url}/trpc/usage.record`, {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify({ entries }),
  });
  return status;
}

async function untilUsed(store: string): Promise<void> {
  const metrics = async () => (await fetch(`${services.ingest.url}/metrics`)).text();
  await until(`${store} to be in use`, async () =>
    (await metrics()).includes(`tally_store_in_use{store="${store}"} 1\n`),
  );
}

test.each([-2, 2])(
  'an ingest whose clock is %s hours off names the skew, and counts what it acknowledged',
  async (hours) => {
    const folder = await mkdtemp(join(tmpdir(), 'tally-skew-'));
    const skew = join(folder, 'skew.mjs');
    await writeFile(
      skew,
      `const off = ${hours} * 3_600_000, now = Date.now;
     Date.now = () => now() + off;
     globalThis.Date = class extends Date { constructor(...a) { a.length ? super(...a) : super(now() + off); } };`,
    );
    const ingest = await startServiceProcess('usage-ingest', {
      DATABASE_URL: stores.postgres.postgres.url,
      REDIS_URL: stores.redis.redis.url,
      TALLY_ADMIN_KEY: KEY,
      NODE_OPTIONS: `--import ${skew}`,
      LOG_LEVEL: 'fatal',
    });
    try {
      const state = await (await fetch(`${ingest.url}/readyz`)).json();
      expect(state).toMatchObject({ ok: true, degraded: true });
      expect(JSON.stringify(state)).toMatch(/clock/i);
      const client = createIngestClient({ url: ingest.url, key: KEY });
      const merchantId = `skewed${hours}`;
      const now = Date.now();
      const entries = [
        { id: 'without-time', merchantId, metrics: { queries: '1' } },
        { id: 'with-time', merchantId, time: new Date(now).toISOString(), metrics: { queries: '1' } },
      ];
      const { accepted, rejected } = await client.usage.record.mutate({ entries });
      expect(accepted + rejected.length).toBe(2);
      for (const each of rejected) {
        expect(each.code).toBe('TIME_IN_FUTURE');
        expect(each.message).toMatch(/7\d{3} s ahead of the clock/);
      }
      expect(rejected.length).toBe(hours < 0 ? 1 : 0);
      await client.flush.drain.mutate({ merchantIds: [merchantId] });
      const rows = await query('select id from usage_events where merchant_id = $1', [merchantId]);
      expect(rows.length).toBe(accepted);
    } finally {
      await ingest.stop();
      await rm(folder, { recursive: true, force: true });
    }
  },
);

test('npm start brings back each service and store that is killed, and nothing acknowledged is lost', async () => {
  const home = await mkdtemp(join(tmpdir(), 'tally-killed-'));
  const base = 20_000 + Math.floor(Math.random() * 10_000);
  const child = spawn(process.execPath, [new URL('../../infra/local/start.mjs', import.meta.url).pathname], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      TALLY_HOME: home,
      TALLY_PORT_BASE: String(base),
      TALLY_ADMIN_KEY: KEY,
      LOG_LEVEL: 'fatal',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  try {
    await until('`npm start` to be ready', () => {
      expect(child.exitCode, output).toBeNull();
      return /^ready$/m.test(output);
    });
    const url = `http://127.0.0.1:${base + 1}`;
    const client = createIngestClient({ url, key: KEY });
    const analytics = createAnalyticsClient({ url: `http://127.0.0.1:${base + 3}`, key: KEY });
    const load = startLoad('killed', [{ client }], Math.random, PACE);
    for (const name of ['usage-ingest', 'metrics-engine', 'analytics-api', 'redis', 'postgres']) {
      const again = `${name} runs again`;
      const before = output.split(again).length;
      process.kill(await pidOf(home, name), 'SIGKILL');
      await until(again, () => output.split(again).length > before);
    }
    const acknowledged = await load.stop();
    for (const port of [1, 2, 3]) {
      const ready = () =>
        fetch(`http://127.0.0.1:${base + port}/readyz`).then(
          (answer) => answer.ok,
          () => false,
        );
      await until(`port ${port} to be ready`, ready);
    }
    const merchantIds = [...acknowledged.keys()];
    await until('a complete flush', async () => (await client.flush.drain.mutate({ merchantIds })).complete);
    expect(await client.reconcile.check.query({ ...RANGE, merchantIds })).toMatchObject({ balanced: true });
    const { totals } = await analytics.analytics.breakdown.query({ ...RANGE, by: 'merchant', merchantIds });
    expect(totals.requests).toBe(String([...acknowledged.values()].reduce((sum, known) => sum + known.size, 0)));
  } finally {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
    await rm(home, { recursive: true, force: true });
  }
});

/** Returns the process of a service or store that `npm start` runs. */
async function pidOf(home: string, name: string): Promise<number> {
  const known = join(home, 'run', `${name}.pid`);
  const text = await readFile(known, 'utf8').catch(() => undefined);
  if (text !== undefined) return Number(text.trim().split('\n')[0]);
  const id = await readFile(join(home, 'id'), 'utf8').catch(() => '');
  const places = [join(home, 'postgres'), join('/var/lib/tally', id.trim())];
  for (const place of places) {
    const file = await readFile(join(place, 'data', 'postmaster.pid'), 'utf8').catch(() => undefined);
    if (file !== undefined) return Number(file.split('\n')[0]);
  }
  throw new Error(`no process of ${name} under ${home}`);
}

/** A home with the data of one store on a small disk of its own; an ordinary home if none can be mounted. */
async function makeDisk(store: 'postgres' | 'redis'): Promise<Disk> {
  const home = await mkdtemp(join(tmpdir(), 'tally-disk-'));
  // As root, the private Postgres keeps its data outside of a home that its user cannot enter, under this id.
  const id = randomBytes(8).toString('hex');
  const folder = store === 'redis' ? join(home, 'redis') : join('/var/lib/tally', id);
  const isRoot = process.getuid?.() === 0;
  if (isRoot) {
    await mkdir(folder, { recursive: true });
    if (store === 'postgres') await writeFile(join(home, 'id'), id);
  }
  const mount = ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', folder];
  const small = isRoot && spawnSync('mount', mount).status === 0;
  const filler = join(folder, 'filler');
  return {
    home,
    small,
    async fill() {
      const file = await open(filler, 'w');
      try {
        // Blocks of decreasing size, until none fits.
        for (let size = 2 ** 20; size >= 1; size /= 2) await fillWith(file, Buffer.alloc(size));
      } finally {
        await file.close();
      }
    },
    free: () => rm(filler, { force: true }),
    async remove() {
      if (small) spawnSync('umount', ['-l', folder]);
      if (isRoot) await rm(folder, { recursive: true, force: true });
      await rm(home, { recursive: true, force: true });
    },
  };
}

async function fillWith(file: FileHandle, block: Buffer): Promise<void> {
  try {
    for (;;) await file.write(block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  }
}
