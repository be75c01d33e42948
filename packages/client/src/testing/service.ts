import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createIngestClient } from '@tally/contracts/client';
import { migrate, openDb } from '@tally/db';
import { assertBuilt, freePort, freshDatabase, freshRedis } from '@tally/testkit';

const require = createRequire(import.meta.url);
const MAIN = join(dirname(require.resolve('@tally/usage-ingest/package.json')), 'dist/main.js');
export const ADMIN_KEY = 'test-admin-key-0123456789';

/** usage-ingest as a process of its own on real stores, to be killed and started again on the same port. */
export async function startIngest(settings: Record<string, string> = {}) {
  assertBuilt('apps/usage-ingest');
  const database = await freshDatabase(migrate);
  const redis = await freshRedis();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const client = createIngestClient({ url, key: ADMIN_KEY, fetch: alone });
  let child: ChildProcess | undefined;

  async function start(): Promise<void> {
    await kill();
    child = spawn(process.execPath, [MAIN], {
      stdio: 'ignore',
      env: {
        PATH: process.env.PATH,
        DATABASE_URL: database.url,
        REDIS_URL: redis.url,
        TALLY_ADMIN_KEY: ADMIN_KEY,
        PORT: String(port),
        LOG_LEVEL: 'silent',
        ...settings,
      },
    });
    await answers(`${url}/readyz`);
  }

  async function kill(): Promise<void> {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  await start();
  return {
    url,
    start,
    kill,
    /** Returns what Postgres has counted for a merchant, over all days, after a flush. */
    async counted(merchantId: string): Promise<Record<string, string>> {
      await client.flush.merchant.mutate({ merchantId });
      const db = await openDb(database.url);
      try {
        const sums = new Map<string, bigint>();
        const rows = await db.usage.merchantUsage({
          merchantIds: [merchantId],
          startDate: '2020-01-01',
          endDate: '2100-01-01',
        });
        for (const row of rows) sums.set(row.metric_type, (sums.get(row.metric_type) ?? 0n) + row.metric_value);
        return Object.fromEntries([...sums].map(([type, units]) => [type, units.toString()]));
      } finally {
        await db.close();
      }
    },
    recent: (merchantId: string) => client.usage.recent.query({ merchantId, limit: 1000 }),
    async drop(): Promise<void> {
      await kill();
      await database.drop();
      await redis.drop();
    },
  };
}

/** A fetch on a connection of its own: existing ones may belong to a killed process. */
const alone = (input: unknown, init: { method?: string; headers?: object; body?: unknown } = {}) =>
  new Promise<Response>((resolve, reject) => {
    const { method = 'GET', body } = init;
    const call = request(String(input), { method, headers: { ...init.headers }, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve(new Response(Buffer.concat(chunks), { status: response.statusCode ?? 500 })));
    });
    call.once('error', reject);
    call.end(body);
  });

/** Resolves when an address answers with 200. */
async function answers(url: string): Promise<void> {
  for (let tries = 0; tries < 4_800; tries++) {
    const ok = await fetch(url).then(
      (response) => response.ok,
      () => false,
    );
    if (ok) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`${url} does not answer`);
}
