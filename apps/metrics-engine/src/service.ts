import { engine } from '@tally/contracts';
import { type Db, openDb } from '@tally/db';
import { type App, createApp, createAuthenticate, type Log, type Releasers, serveContract } from '@tally/service';
import { Registry } from 'prom-client';
import type { Env } from './env.ts';
import { createRollupReader } from './rollups/read.ts';
import { createRollups } from './rollups/rollups.ts';
import { createCustom } from './custom/custom.ts';
import { createHandlers } from './router.ts';

export type EngineService = { app: App; db: Db };

/** Opens the stores and builds metrics-engine on them; everything opened is pushed to `releasers`. Does not listen. */
export async function createEngineService(
  env: Env,
  { log, releasers, now = Date.now }: { log: Log; releasers: Releasers; now?: () => number },
): Promise<EngineService> {
  const db = await openDb(env.DATABASE_URL, {
    applicationName: 'metrics-engine',
    statementTimeoutMs: env.ROLLUP_TIMEOUT_MS,
  });
  releasers.push('postgres', () => db.close());
  const rollups = createRollups({
    db,
    weekStart: env.WEEK_START,
    maxBackfillDays: env.BACKFILL_MAX_DAYS,
    now,
    onFinished: (job) => log.info({ job }, 'rollup run ended'),
    onFailure: (grain, period, error) => log.error({ err: error, grain, period }, 'a period could not be computed'),
  });
  releasers.push('rollups', () => rollups.stop());
  // Runs that a dead engine left: taken over in the background, so that starting does not wait for them.
  void rollups.recover().catch((error: unknown) => log.error({ err: error }, 'runs could not be taken over'));

  const custom = createCustom({
    db,
    limits: {
      medium: env.CUSTOM_COST_MEDIUM,
      high: env.CUSTOM_COST_HIGH,
      refused: env.CUSTOM_COST_LIMIT,
      timeoutMs: env.CUSTOM_TIMEOUT_MS,
      maxRows: env.CUSTOM_MAX_ROWS,
      maxDays: env.CUSTOM_MAX_DAYS,
    },
  });
  const app = createApp({
    name: 'metrics-engine',
    log,
    router: serveContract(engine, createHandlers({ rollups, reader: createRollupReader(db), custom })),
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
