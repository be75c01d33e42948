import { engine } from '@tally/contracts';
import { type Db, openDb } from '@tally/db';
import { type App, createApp, createAuthenticate, type Log, type Releasers, serveContract } from '@tally/service';
import { Registry } from 'prom-client';
import type { Env } from './env.ts';

export type EngineService = { app: App; db: Db };

/** Opens the stores and builds metrics-engine on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createEngineService(
  env: Env,
  { log, releasers, now = Date.now }: { log: Log; releasers: Releasers; now?: () => number },
): Promise<EngineService> {
  const db = await openDb(env.DATABASE_URL, { applicationName: 'metrics-engine' });
  releasers.push('postgres', () => db.close());
  const app = createApp({
    name: 'metrics-engine',
    log,
    router: serveContract(engine, {}),
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
