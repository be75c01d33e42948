import { messageOf } from '@tally/contracts';
import { createLog, createReleasers, settingsOrExit } from '@tally/service';
import { readEnv } from '../env.ts';
import { createIngestService, type IngestService } from '../service.ts';

/** The settings of a job on restored stores, before any service starts: nothing is flushed or scheduled. */
export const readSettings = () =>
  settingsOrExit(() => readEnv({ ...process.env, ENABLE_FLUSH: 'false', ENABLE_JOB_SCHEDULER: 'false' }));

/** Runs a job on both stores. What it throws is printed, and the process exits with 1. */
export async function withRestoredStores(
  { name, failed, env }: { name: string; failed: string; env: ReturnType<typeof readSettings> },
  work: (service: IngestService) => Promise<void>,
): Promise<void> {
  const log = createLog(name, env.LOG_LEVEL === 'info' ? 'error' : env.LOG_LEVEL);
  const releasers = createReleasers((resource, error) => log.error({ err: error, resource }, 'release failed'));
  try {
    const service = await createIngestService(env, { log, releasers });
    if (service.redis.status !== 'ready') throw new Error('Redis is unavailable.');
    await work(service);
  } catch (error) {
    console.error(`${failed}: ${messageOf(error)}`);
    process.exitCode = 1;
  } finally {
    await releasers.releaseAll();
  }
}
