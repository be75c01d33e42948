import { createHash } from 'node:crypto';
import { type FreshStore, freshRedis } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRedis, type RedisClient, redisReady } from '../stores/redis.ts';
import { createAuthenticate } from './auth.ts';
import { changeKey, createKeyMirror } from './key-mirror.ts';
import type { KnownKey } from './known-keys.ts';

let store: FreshStore;
let redis: RedisClient;
beforeAll(async () => {
  store = await freshRedis();
  redis = createRedis(store.url);
  await redisReady(redis);
});
afterAll(async () => {
  redis.disconnect();
  await store.drop();
});

const hashKey = (secret: string) => createHash('sha256').update(secret).digest('hex');
const clock = { now: Date.parse('2026-11-22T12:00:00Z') };
const now = () => clock.now;
const table = new Map<string, KnownKey>();
const database = { isUnavailable: false };

/** A freshly started process on the same stores. */
function startProcess() {
  const authenticate = createAuthenticate({
    env: {},
    keys: {
      async findByHash(hash) {
        if (database.isUnavailable) throw new Error('connection refused');
        return table.get(hash);
      },
    },
    mirror: createKeyMirror(redis),
    now,
  });
  return (secret: string) =>
    authenticate({ secret, address: '192.0.2.1' }).then(
      ({ id }) => id,
      (error: { code: string }) => error.code,
    );
}

function add(secret: string, key: Partial<KnownKey> = {}) {
  const row = { id: secret, role: 'viewer' as const, merchantId: null, teamId: null, expiresAt: null, ...key };
  table.set(hashKey(secret), row);
}

/** Uses a key through a running process until its copy is in Redis. */
async function use(secret: string) {
  const id = await startProcess()(secret);
  await expect.poll(() => redis.exists(`registry:key:${hashKey(secret)}`)).toBe(1);
  return id;
}

test('a process that starts without Postgres knows the keys used within the hour; others are 503, never 401', async () => {
  add('used');
  add('unused');
  expect(await use('used')).toBe('used');
  database.isUnavailable = true;
  const ask = startProcess();
  expect([await ask('used'), await ask('unused'), await ask('made-up')]).toEqual([
    'used',
    'UNAVAILABLE',
    'UNAVAILABLE',
  ]);
  const copy = `registry:key:${hashKey('used')}`;
  const kept = JSON.parse((await redis.get(copy))!) as { at: number };
  await redis.set(copy, JSON.stringify({ ...kept, at: kept.at - 3_600_000 }));
  expect(await startProcess()('used')).toBe('UNAVAILABLE');
  database.isUnavailable = false;
});

test('a key revoked or rotated since its copy was kept is not known by the copy, nor are its sessions', async () => {
  add('key', { id: 'k' });
  add('session', { id: 'k', sessionId: 's' });
  add('other', { id: 'o' });
  for (const secret of ['key', 'session', 'other']) await use(secret);
  await changeKey(redis, 'k', async () => table.delete(hashKey('key')));
  database.isUnavailable = true;
  const ask = startProcess();
  expect([await ask('key'), await ask('session'), await ask('other')]).toEqual(['UNAVAILABLE', 'UNAVAILABLE', 'o']);
  database.isUnavailable = false;
});

test('a key revoked since its copy was kept by a process whose clock is ahead is not known by the copy', async () => {
  add('ahead', { id: 'a' });
  clock.now += 3_600_000;
  await use('ahead');
  clock.now -= 3_600_000;
  await changeKey(redis, 'a', async () => table.delete(hashKey('ahead')));
  database.isUnavailable = true;
  expect(await startProcess()('ahead')).toBe('UNAVAILABLE');
  database.isUnavailable = false;
});

test('a copy kept while its key is being changed is not relied on', async () => {
  add('late', { id: 'l' });
  await changeKey(redis, 'l', async () => {
    await use('late');
    table.delete(hashKey('late'));
  });
  database.isUnavailable = true;
  expect(await startProcess()('late')).toBe('UNAVAILABLE');
  database.isUnavailable = false;
});

test('an expired key is refused by its copy as well', async () => {
  add('short', { expiresAt: new Date(clock.now + 1_000).toISOString() });
  await use('short');
  database.isUnavailable = true;
  clock.now += 1_000;
  expect(await startProcess()('short')).toBe('UNAUTHORIZED');
  database.isUnavailable = false;
});
