import { LITELLM_PATHS, pathsOf } from '@tally/contracts';
import { createAnalyticsClient } from '@tally/contracts/client';
import { type JournalLine, migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, OPEN_PATHS, pathsWithoutKey, servedAndStated, serverUrls } from '@tally/testkit';
import { expect, test } from 'vitest';
import { readEnv } from './env.ts';
import { createAnalyticsService } from './service.ts';

const KEY = 'the-admin-key-of-the-tests';

test('with ingest away a question is answered from what was counted, and says that it may not be complete', async () => {
  const database = await freshDatabase(migrate);
  const releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: database.url,
    REDIS_URL: serverUrls().redisUrl,
    TALLY_ADMIN_KEY: KEY,
    // Nobody listens there.
    USAGE_INGEST_URL: 'http://127.0.0.1:1',
  });
  const { app, db } = await createAnalyticsService(env, {
    log: createLog('test', 'silent'),
    releasers,
    now: () => Date.parse('2026-11-22T12:00:00Z'),
  });
  const line = {
    merchant_id: 'acme',
    date: '2026-11-21',
    id: 'a',
    time: 1,
    requests: '2',
    cost: '5',
  } satisfies JournalLine;
  await db.journal.append({ source: 'direct', lines: [{ ...line, origin: 'direct' }] });
  const client = createAnalyticsClient({
    url: 'http://analytics',
    key: KEY,
    fetch: async (input, init) => app.request(input as string, init as RequestInit),
  });
  const answer = await client.analytics.breakdown.query({
    startDate: '2026-11-01',
    endDate: '2026-11-22',
    by: 'merchant',
  });
  expect(answer).toMatchObject({
    rows: [{ key: 'acme', requests: '2', cost: '0.000000005' }],
    total: 1,
    nextCursor: null,
    coverage: { dataSource: 'cache', complete: false },
  });
  // Events of the same merchant may wait since long before the last flush: nobody knows.
  expect(answer.coverage.asOf).toBeNull();
  const range = { startDate: '2026-11-01', endDate: '2026-11-22', asKnownOn: '2026-11-22T11:00:00Z' };
  expect((await client.analytics.summary.query(range)).coverage.asOf).toBeNull();
  await releasers.releaseAll();
  await database.drop();
});

test('every path asks for a key, but those that are open to all', async () => {
  const database = await freshDatabase(migrate);
  const releasers = createReleasers();
  const env = readEnv({
    DATABASE_URL: database.url,
    REDIS_URL: serverUrls().redisUrl,
    TALLY_ADMIN_KEY: 'the-admin-key-of-the-tests',
  });
  const { app } = await createAnalyticsService(env, { log: createLog('test', 'silent'), releasers });
  expect(await pathsWithoutKey(app)).toEqual(OPEN_PATHS);
  // The roles × paths test takes its paths from the contract.
  const { served, stated } = servedAndStated(app, pathsOf('analytics-api'));
  expect(served).toEqual([...stated, ...Object.values(LITELLM_PATHS).map((path) => `POST ${path}`)].sort());
  // The fast path of tRPC passes by whatever is registered for all paths.
  const registered = app.hono.routes.map(({ method, path }) => `${method} ${path}`);
  expect(registered).toEqual(['ALL /trpc/*', ...app.routes.map(({ method, path }) => `${method} ${path}`)]);
  await releasers.releaseAll();
  await database.drop();
});

test('a pool of one connection, in which a query would wait for itself, is refused', () => {
  const stores = { DATABASE_URL: 'postgres://here/tally', REDIS_URL: 'redis://here', TALLY_ADMIN_KEY: KEY };
  const settings = (size: string) => () => readEnv({ ...stores, POSTGRES_POOL_SIZE: size });
  expect(settings('1')).toThrow('POSTGRES_POOL_SIZE: Expected a whole number from 2 to 1000');
  expect(settings('2')()).toMatchObject({ POSTGRES_POOL_SIZE: 2 });
});
