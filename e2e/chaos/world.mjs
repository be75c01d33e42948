import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import pg from 'pg';
import { freePort } from '../../infra/local/ports.mjs';
import { startServers } from '../../infra/local/servers.mjs';
import { startRedisCluster } from './redis-cluster.mjs';

const MAIN = fileURLToPath(new URL('../../apps/usage-ingest/dist/main.js', import.meta.url));
const KEY = 'the-admin-key-of-the-chaos';
const READY_DEADLINE_MS = 180_000;

/**
 * Real servers that keep what they acknowledge, and two ingest processes on them, each flushing. `cluster`: Redis is a
 * cluster of three masters with a replica each.
 */
export async function createWorld(home, { cluster, random }) {
  const servers = await startServers({ home, durable: true, ...(cluster ? { only: ['postgres'] } : {}) });
  if (cluster) {
    servers.redis = await clusterHandle(random);
    servers.redisUrl = servers.redis.url;
    servers.handles.push(servers.redis);
  }
  await migrate(servers.databaseUrl);
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: KEY,
    LOG_LEVEL: 'fatal',
    FLUSH_INTERVAL_MS: '50',
    // All callers of a load have the same key.
    MAX_CALLS_AT_ONCE: '10000',
    ...(cluster ? { REDIS_WAIT_REPLICAS: '1' } : {}),
  };
  const ingests = await Promise.all(['one', 'two'].map((name) => createIngest(name, env)));
  await Promise.all(ingests.map((ingest) => ingest.start()));
  return {
    servers,
    ingests,
    /** A connection for checks; opened on demand, since the server may be killed at any time. */
    async query(text, values) {
      const client = new pg.Client({ connectionString: servers.databaseUrl });
      await client.connect();
      try {
        return (await client.query(text, values)).rows;
      } finally {
        await client.end();
      }
    },
    async close() {
      await Promise.all(ingests.map((ingest) => ingest.stop()));
      await servers.remove();
    },
  };
}

/** A Redis Cluster in the form of one server: a kill ends a random master, a start brings back all nodes. */
async function clusterHandle(random) {
  const cluster = await startRedisCluster({ masters: 3, replicasEach: 1, durable: true });
  const killed = [];
  return {
    name: 'redis',
    url: cluster.url,
    get exited() {
      return killed.length > 0 ? Promise.resolve() : new Promise(() => {});
    },
    async kill() {
      const masters = cluster.masters();
      const node = masters[Math.floor(random() * masters.length)];
      killed.push(node);
      await cluster.kill(node);
    },
    /** Resolves when replicas have taken over for all killed masters. */
    async untilReplaced() {
      const deadline = Date.now() + READY_DEADLINE_MS;
      while (cluster.masters().some((node) => killed.includes(node))) {
        if (Date.now() > deadline) throw new Error('no replica took over from its killed master');
        await wait(50);
      }
    },
    /** Returns what happened: a node that is back soon is still a master. */
    async start() {
      const isReplaced = killed.some((node) => !cluster.masters().includes(node));
      while (killed.length > 0) await cluster.start(killed.shift());
      await cluster.untilWhole();
      return isReplaced ? 'redis, failover' : 'redis';
    },
    stop: cluster.remove,
  };
}

async function createIngest(name, env) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  let child;
  let output = '';
  const alive = () => child && child.exitCode === null && child.signalCode === null;

  return {
    name,
    url,
    /** For the load, which sends again what is not answered in time. */
    client: clientOf(url, 15_000),
    /** For comparisons, made while everything runs: on a busy machine they take as long as they take. */
    patientClient: clientOf(url, 300_000),
    alive,
    /** Starts it unless it runs, and again while the stores it needs are unavailable. */
    async start(fault) {
      const deadline = Date.now() + READY_DEADLINE_MS;
      for (let started = false; ; ) {
        if (!alive()) {
          // It may reach the fault point while it starts: then the fault has struck, and it is not started again.
          if (fault && started) return;
          started = true;
          output = '';
          child = spawn(process.execPath, [MAIN], {
            env: { ...env, PORT: String(port), ...(fault ? { TALLY_FAULT: fault } : {}) },
            stdio: ['ignore', 'pipe', 'pipe'],
          });
          for (const stream of [child.stdout, child.stderr]) {
            stream.on('data', (chunk) => {
              output = (output + chunk).slice(-3000);
            });
          }
        }
        const ready = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(15_000) }).then(
          async (response) => response.ok && !(await response.json()).degraded,
          () => false,
        );
        if (ready || (fault && !alive())) return;
        if (Date.now() > deadline) throw new Error(`ingest ${name} is not ready:\n${output}`);
        await wait(50);
      }
    },
    async kill() {
      if (!alive()) return;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    },
    async stop() {
      if (!alive()) return;
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
    },
  };
}

function clientOf(url, timeoutMs) {
  const within = (input, init) => fetch(input, { ...init, signal: AbortSignal.timeout(timeoutMs) });
  return createIngestClient({ url, key: KEY, fetch: within });
}
