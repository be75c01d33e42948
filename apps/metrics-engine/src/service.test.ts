import { migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, serverUrls } from '@tally/testkit';
import { expect, test } from 'vitest';
import { readEnv } from './env.ts';
import { createEngineService } from './service.ts';

test('the engine is ready on a migrated database, and not once that is gone', async () => {
  const database = await freshDatabase(migrate);
  const releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: database.url,
    REDIS_URL: serverUrls().redisUrl,
    TALLY_ADMIN_KEY: 'the-admin-key-of-the-tests',
    ENABLE_METRICS_SCHEDULER: 'false',
  });
  const { app } = await createEngineService(env, { log: createLog('test', 'silent'), releasers });
  expect((await app.request('/readyz')).status).toBe(200);
  await database.drop();
  expect((await app.request('/readyz')).status).toBe(503);
  await releasers.releaseAll();
});

test('all problems of the settings are listed at once, without their values', () => {
  const settings = { DATABASE_URL: 'mysql://user:secret@host/db', PORT: 'eighty', TALLY_ADMIN_KEY: 'short' };
  expect(() => readEnv(settings)).toThrow(
    /DATABASE_URL: [\s\S]*REDIS_URL is not set[\s\S]*TALLY_ADMIN_KEY: [\s\S]*PORT: /,
  );
  expect(() => readEnv(settings)).not.toThrow(/secret|eighty|short/);
});
