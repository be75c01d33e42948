import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
beforeAll(async () => {
  ingest = await startIngest();
});
afterAll(() => ingest.close());

const HOUR = 3_600_000;
/** Longer than any process caches a key. */
const LATER_MS = 2_000;
const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'OK',
    (error: { data: { code: string } }) => error.data.code,
  );
const reads = (secret: string, merchantId = 'acme') =>
  codeOf(ingest.clientWith(secret).usage.current.query({ merchantId }));
const create = (more: object = {}) => ingest.admin.keys.create.mutate({ name: 'ann', role: 'viewer', ...more });
const startWith = (key: string) => ingest.clientWith(key).sessions.create.mutate();

test('a session may do what its key may, and no more', async () => {
  const key = await create({ merchantId: 'acme' });
  const session = await startWith(key.key);
  expect(session).toMatchObject({ keyId: key.id, name: 'ann', role: 'viewer', merchantId: 'acme' });
  expect(session.secret).not.toContain(key.key);
  expect(await reads(session.secret)).toBe('OK');
  expect(await reads(session.secret, 'globex')).toBe('MERCHANT_FORBIDDEN');
  expect(await codeOf(ingest.clientWith(session.secret).keys.list.query())).toBe('FORBIDDEN');
  expect(await ingest.clientWith(session.secret).sessions.current.query()).toEqual({
    keyId: key.id,
    name: 'ann',
    role: 'viewer',
    merchantId: 'acme',
    teamId: null,
    expiresAt: session.expiresAt,
  });
});

test('the admin key of the settings starts sessions too', async () => {
  const session = await startWith(ADMIN_KEY);
  expect(session).toMatchObject({ keyId: 'admin', role: 'admin', merchantId: null });
  expect(await codeOf(ingest.clientWith(session.secret).keys.list.query())).toBe('OK');
});

test('a session ends when it is ended, and takes no other with it', async () => {
  const { key } = await create();
  const [first, second] = [await startWith(key), await startWith(key)];
  expect(await ingest.clientWith(first.secret).sessions.end.mutate()).toEqual({ ended: true });
  ingest.clock.now += LATER_MS;
  expect([await reads(first.secret), await reads(second.secret), await reads(key)]).toEqual([
    'UNAUTHORIZED',
    'OK',
    'OK',
  ]);
  expect(await ingest.clientWith(key).sessions.end.mutate()).toEqual({ ended: false });
});

test('a session ends by itself after 12 hours', async () => {
  const session = await startWith((await create()).key);
  ingest.clock.now += 12 * HOUR - 1;
  expect(await reads(session.secret)).toBe('OK');
  ingest.clock.now += 1;
  expect(await reads(session.secret)).toBe('UNAUTHORIZED');
});

test('a session ends with its key: revoked, expired or given another secret', async () => {
  const [revoked, expiring, rotated] = [
    await create(),
    await create({ expiresAt: new Date(ingest.clock.now + HOUR).toISOString() }),
    await create(),
  ];
  const secrets = await Promise.all([revoked, expiring, rotated].map(async ({ key }) => (await startWith(key)).secret));
  expect(await Promise.all(secrets.map((secret) => reads(secret)))).toEqual(['OK', 'OK', 'OK']);
  await ingest.admin.keys.revoke.mutate({ id: revoked.id });
  await ingest.admin.keys.rotate.mutate({ id: rotated.id, overlapSeconds: 60 });
  ingest.clock.now += LATER_MS;
  expect(await Promise.all(secrets.map((secret) => reads(secret)))).toEqual(['UNAUTHORIZED', 'OK', 'OK']);
  ingest.clock.now += HOUR;
  expect(await Promise.all(secrets.map((secret) => reads(secret)))).toEqual(Array(3).fill('UNAUTHORIZED'));
});

test('a session starts no session, and neither does a producer or a service', async () => {
  const { secret } = await startWith((await create()).key);
  expect(await codeOf(startWith(secret))).toBe('FORBIDDEN');
  expect(await codeOf(startWith((await create({ role: 'producer' })).key))).toBe('FORBIDDEN');
  expect(await codeOf(startWith('the-service-key-of-the-tests'))).toBe('FORBIDDEN');
});

test('sessions are no keys: they are not listed, revoked or rotated', async () => {
  const session = await startWith((await create()).key);
  const { rows } = await ingest.admin.keys.list.query({ limit: 1000, includeRevoked: true });
  expect(rows.map(({ id }) => id)).not.toContain(session.id);
  expect(await codeOf(ingest.admin.keys.revoke.mutate({ id: session.id }))).toBe('NOT_FOUND');
  expect(await codeOf(ingest.admin.keys.rotate.mutate({ id: session.id }))).toBe('NOT_FOUND');
});

test('one key has at most 100 sessions; the oldest ends for a new one', async () => {
  const { key } = await create();
  const first = await startWith(key);
  for (let count = 0; count < 99; count++) {
    ingest.clock.now += 1;
    await startWith(key);
  }
  expect(await reads(first.secret)).toBe('OK');
  ingest.clock.now += LATER_MS;
  await startWith(key);
  expect(await reads(first.secret)).toBe('UNAUTHORIZED');
});
