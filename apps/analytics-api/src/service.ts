import { analytics } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { type Db, openDb } from '@tally/db';
import { type App, createApp, createAuthenticate, type Log, type Releasers, serveContract } from '@tally/service';
import { Registry } from 'prom-client';
import type { Env } from './env.ts';
import { createFreshness } from './fresh.ts';
import { createRead } from './read.ts';
import { createHandlers } from './router.ts';

export type AnalyticsService = { app: App; db: Db };

/** Opens the stores and builds analytics-api on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createAnalyticsService(
  env: Env,
  {
    log,
    releasers,
    now = Date.now,
    fetch = globalThis.fetch,
  }: { log: Log; releasers: Releasers; now?: () => number; fetch?: typeof globalThis.fetch },
): Promise<AnalyticsService> {
  const db = await openDb(env.DATABASE_URL, { applicationName: 'analytics-api' });
  releasers.push('postgres', () => db.close());
  const ingest = createIngestClient({
    url: env.USAGE_INGEST_URL,
    key: env.TALLY_SERVICE_KEY ?? env.TALLY_ADMIN_KEY ?? '',
    fetch: (input, init) => fetch(input, { ...init, signal: AbortSignal.timeout(env.FRESHNESS_TIMEOUT_MS) }),
  });
  const freshness = createFreshness({ ingest, now });
  const read = createRead({ db, freshness });
  const app = createApp({
    name: 'analytics-api',
    log,
    router: serveContract(analytics, createHandlers({ read, freshness })),
    authenticate: createAuthenticate({
      adminKey: env.TALLY_ADMIN_KEY,
      serviceKey: env.TALLY_SERVICE_KEY,
      findByHash: (hash) => db.keys.findByHash(hash),
      now,
    }),
    maxBodyBytes: env.MAX_BODY_BYTES,
    registry: new Registry(),
    async health() {
      await db.ping();
      return { ok: true, postgres: true };
    },
  });
  return { app, db };
}
