import { createAnalyticsClient } from '@tally/contracts/client';
import { type JournalLine, migrate } from '@tally/db';
import { createLog, createReleasers } from '@tally/service';
import { freshDatabase, serverUrls } from '@tally/testkit';
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
  await releasers.releaseAll();
  await database.drop();
});
