import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';
import { readEnv } from '../src/server/env.ts';
import { createConsole, listenOn } from '../src/server/server.ts';

export const ADMIN_KEY = 'the-admin-key-of-the-tests';

export type Stack = {
  /** The address of the console. */
  url: string;
  databaseUrl: string;
  services: Record<'ingest' | 'engine' | 'analytics', ServiceProcess>;
  /** Starts another console in front of the same services; returns its address. */
  addConsole(settings: Record<string, string>): Promise<string>;
  stop(): Promise<void>;
};

/**
 * All services as real processes on stores of their own, behind the console. Without `webFolder` the page is a stub.
 * With an empty `serviceKey` the services and the console derive one.
 */
export async function startStack({
  settings = {},
  services = {},
  webFolder,
  serviceKey = 'the-service-key-of-the-tests',
}: {
  /** Of the console. */
  settings?: Record<string, string>;
  services?: Record<string, string>;
  webFolder?: string;
  serviceKey?: string;
} = {}): Promise<Stack> {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const common = {
    DATABASE_URL: database.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: ADMIN_KEY,
    ...(serviceKey && { TALLY_SERVICE_KEY: serviceKey }),
    POSTGRES_POOL_SIZE: '4',
    ADMIN_ANALYTICS_RATE_LIMIT: '1000000',
    ADMIN_EXPORT_RATE_LIMIT: '1000000',
    ...services,
  };
  const ingest = await startServiceProcess('usage-ingest', common);
  const [engine, analytics] = await Promise.all([
    startServiceProcess('metrics-engine', { ...common, USAGE_INGEST_URL: ingest.url, WEBHOOK_ALLOW_PRIVATE: 'true' }),
    startServiceProcess('analytics-api', { ...common, USAGE_INGEST_URL: ingest.url }),
  ]);
  const folder = webFolder ?? (await stubPage());
  const releasers = createReleasers();
  async function addConsole(settings: Record<string, string>): Promise<string> {
    const env = readEnv({
      TALLY_ADMIN_KEY: ADMIN_KEY,
      ...(serviceKey && { TALLY_SERVICE_KEY: serviceKey }),
      USAGE_INGEST_URL: ingest.url,
      METRICS_ENGINE_URL: engine.url,
      ANALYTICS_API_URL: analytics.url,
      ...settings,
    });
    const server = await createConsole(env, { log: createLog('console', 'silent'), releasers, webFolder: folder });
    releasers.push('http', await listenOn(server, { host: '127.0.0.1', port: 0 }));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }
  return {
    url: await addConsole(settings),
    databaseUrl: database.url,
    addConsole,
    services: { ingest, engine, analytics },
    async stop() {
      await releasers.releaseAll();
      await Promise.all([engine.stop(), analytics.stop()]);
      await ingest.stop();
      await Promise.all([database.drop(), redis.drop()]);
      if (!webFolder) await rm(folder, { recursive: true, force: true });
    },
  };
}

async function stubPage(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'tally-console-'));
  await writeFile(join(folder, 'index.html'), '<!doctype html><title>Tally</title>');
  return folder;
}

/** Resolves with the next value among those of `subscribe` that `wanted` accepts. */
export async function nextOf<T>(
  subscribe: (hear: (value: T) => void) => { unsubscribe(): void },
  wanted: (value: T) => boolean,
): Promise<T> {
  const heard = new EventTarget();
  let found: T | undefined;
  const subscription = subscribe((value) => {
    if (!wanted(value)) return;
    found = value;
    heard.dispatchEvent(new Event('found'));
  });
  if (found === undefined) await once(heard, 'found');
  subscription.unsubscribe();
  return found!;
}
