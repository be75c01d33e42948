import { pathsOf } from '@tally/contracts';
import { migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, OPEN_PATHS, pathsWithoutKey, servedAndStated, serverUrls } from '@tally/testkit';
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

test('every path asks for a key, but those that are open to all', async () => {
  const database = await freshDatabase(migrate);
  const releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: database.url,
    REDIS_URL: serverUrls().redisUrl,
    TALLY_ADMIN_KEY: 'the-admin-key-of-the-tests',
    ENABLE_METRICS_SCHEDULER: 'false',
  });
  const { app } = await createEngineService(env, { log: createLog('test', 'silent'), releasers });
  expect(await pathsWithoutKey(app)).toEqual(OPEN_PATHS);
  // The roles × paths test takes its paths from the contract.
  const { served, stated } = servedAndStated(app, pathsOf('metrics-engine'));
  expect(served).toEqual(stated);
  // The fast path of tRPC passes by whatever is registered for all paths.
  const registered = app.hono.routes.map(({ method, path }) => `${method} ${path}`);
  expect(registered).toEqual(['ALL /trpc/*', ...app.routes.map(({ method, path }) => `${method} ${path}`)]);
  await releasers.releaseAll();
  await database.drop();
});

test('settings that contradict each other are listed with the setting that they contradict', () => {
  const settings = {
    DATABASE_URL: 'postgres://host/db',
    REDIS_URL: 'redis://host',
    TALLY_ADMIN_KEY: 'the-admin-key-of-this-test',
    CUSTOM_COST_MEDIUM: '600000',
  };
  expect(() => readEnv(settings)).toThrow('CUSTOM_COST_HIGH: Expected at least CUSTOM_COST_MEDIUM');
  expect(() => readEnv({ ...settings, CUSTOM_COST_HIGH: '20000000' })).toThrow(
    'CUSTOM_COST_LIMIT: Expected at least CUSTOM_COST_HIGH',
  );
  expect(readEnv({ ...settings, CUSTOM_COST_HIGH: '700000' }).CUSTOM_COST_HIGH).toBe(700_000);
});
