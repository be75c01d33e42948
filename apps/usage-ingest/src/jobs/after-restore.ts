import { CACHED_ANSWERS, createLog, createReleasers, removeKeys, settingsOrExit } from '@tally/service';
import { readEnv } from '../env.ts';
import { createIngestService } from '../service.ts';

// `npm run job:after-restore`, before any service starts on a restored Postgres. What Redis remembers of events that
// Postgres lost would keep them lost: their repeats would be duplicates, and cached answers would count them. Events
// that wait in Redis and running totals stay.
const env = settingsOrExit(() => readEnv({ ...process.env, ENABLE_FLUSH: 'false', ENABLE_JOB_SCHEDULER: 'false' }));
const log = createLog('after-restore', env.LOG_LEVEL === 'info' ? 'error' : env.LOG_LEVEL);
const releasers = createReleasers((name, error) => log.error({ err: error, resource: name }, 'release failed'));
try {
  const { db, redis, window } = await createIngestService(env, { log, releasers });
  if (redis.status !== 'ready') throw new Error('Redis is unavailable.');
  await db.changeLog.restart();
  console.log('the log of changes is empty: readers of usage.changes begin without a cursor');
  await window.forget();
  console.log('the event ids in Redis are forgotten: what the journal lacks counts when it is sent again');
  console.log(`${await removeKeys(redis, CACHED_ANSWERS)} cached answers are removed`);
} catch (error) {
  console.error(`The job failed: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
} finally {
  await releasers.releaseAll();
}
