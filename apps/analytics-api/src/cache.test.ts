import { migrate, openDb } from '@tally/db';
import { createFairQueue, createRedis, redisReady } from '@tally/service';
import { freshDatabase, freshRedis } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cache, createCache } from './cache.ts';

const releases: (() => Promise<unknown>)[] = [];
let cacheOf: (queue: ReturnType<typeof createFairQueue>) => Cache;

beforeAll(async () => {
  const [database, store] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const db = await openDb(database.url, { poolSize: 2, applicationName: 'test' });
  const redis = createRedis(store.url, () => {}, { repeats: false });
  await redisReady(redis, 30_000);
  cacheOf = (queue) => createCache({ redis, changes: db.changes, queue, now: Date.now });
  releases.push(async () => redis.disconnect(), db.close, database.drop, store.drop);
});
afterAll(async () => {
  for (const release of releases) await release();
});

const SCOPE = { merchantIds: ['acme'], startDate: '2026-11-01', endDate: '2026-11-02' };

/** Work that ends when it is told to. */
function held() {
  let end = () => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { work: () => ended, end };
}

test('whoever asks what another caller waits for does not wait in the line of that caller', async () => {
  const queue = createFairQueue({ places: 2 });
  const cache = cacheOf(queue);
  const work = held();
  const running = queue('busy', work.work);
  let computed = 0;
  const ask = (caller: string) =>
    cache.through({ kind: 'test', question: 'line', scope: SCOPE, callerId: caller }, async () => ++computed);
  const inLine = ask('busy');
  expect(await ask('quiet')).toBe(1);
  // The answer ends the wait of the other one, too.
  expect(await inLine).toBe(1);
  work.end();
  await running;
  expect(computed).toBe(1);
});

test('a caller with too many queries is refused, and not those who ask the same', async () => {
  const queue = createFairQueue({ places: 2, waitingPerCaller: 1 });
  const cache = cacheOf(queue);
  const work = held();
  const tasks = [queue('busy', work.work), queue('busy', work.work)];
  const ask = (caller: string) =>
    cache.through({ kind: 'test', question: 'refused', scope: SCOPE, callerId: caller }, async () => 'answer');
  const [busy, quiet] = await Promise.allSettled([ask('busy'), ask('quiet')]);
  expect(quiet).toMatchObject({ value: 'answer' });
  expect(busy).toMatchObject({ reason: { code: 'RATE_LIMITED' } });
  work.end();
  await Promise.all(tasks);
});

test('a query that fails rejects all who ask it, and is computed again for the next one', async () => {
  const cache = cacheOf(createFairQueue({ places: 3 }));
  let computed = 0;
  const ask = (caller: string) =>
    cache.through({ kind: 'test', question: 'fails', scope: SCOPE, callerId: caller }, async () => {
      computed++;
      if (computed === 1) throw new Error('broken');
      return computed;
    });
  const outcomes = await Promise.allSettled(['a', 'a', 'b'].map(ask));
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(await ask('a')).toBe(2);
});
