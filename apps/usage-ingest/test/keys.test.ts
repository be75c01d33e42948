import { encodeCursor } from '@tally/service';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;
beforeAll(async () => {
  ingest = await startIngest();
});
afterAll(() => ingest.close());

const HOUR = 3_600_000;
const UNKNOWN = '00000000-0000-4000-8000-000000000000';
const after = (ms: number) => new Date(ingest.clock.now + ms).toISOString();
const reads = (key: string) =>
  ingest
    .clientWith(key)
    .usage.current.query({ merchantId: 'acme' })
    .then(
      () => 'OK',
      (error: { data: { code: string } }) => error.data.code,
    );

test('a key works until it expires, and says then that it has', async () => {
  const { key, id, expiresAt } = await ingest.admin.keys.create.mutate({
    name: 'short',
    role: 'viewer',
    expiresAt: after(HOUR),
  });
  expect(expiresAt).toBe(after(HOUR));
  expect(await reads(key)).toBe('OK');
  ingest.clock.now += HOUR;
  await expect(ingest.clientWith(key).usage.current.query({ merchantId: 'acme' })).rejects.toMatchObject({
    data: { code: 'UNAUTHORIZED' },
    message: expect.stringMatching(/^This API key expired at 2026-/),
  });
  // An expired key can be given a new life, under its own id.
  await expect(ingest.admin.keys.rotate.mutate({ id })).rejects.toMatchObject({ data: { code: 'CONFLICT' } });
  const rotated = await ingest.admin.keys.rotate.mutate({ id, expiresAt: after(HOUR) });
  expect(await reads(rotated.key)).toBe('OK');
});

test('a key cannot be created expired', async () => {
  const made = ingest.admin.keys.create.mutate({ name: 'late', role: 'viewer', expiresAt: after(0) });
  await expect(made).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
});

test('a rotated key keeps its id; its secret from before works for the overlap', async () => {
  const old = await ingest.admin.keys.create.mutate({ name: 'gateway', role: 'member' });
  expect(await reads(old.key)).toBe('OK');
  const rotated = await ingest.admin.keys.rotate.mutate({ id: old.id, overlapSeconds: 60 });
  expect(rotated).toMatchObject({
    id: old.id,
    name: 'gateway',
    role: 'member',
    rotatedAt: after(0),
    previousSecretExpiresAt: after(60_000),
  });
  expect(rotated.key).not.toBe(old.key);
  ingest.clock.now += 59_000;
  expect([await reads(old.key), await reads(rotated.key)]).toEqual(['OK', 'OK']);
  ingest.clock.now += 1_000;
  expect([await reads(old.key), await reads(rotated.key)]).toEqual(['UNAUTHORIZED', 'OK']);
});

test('of a key that is rotated twice only the last two secrets work; without an overlap only the last', async () => {
  const { id, key: first } = await ingest.admin.keys.create.mutate({ name: 'twice', role: 'viewer' });
  const { key: second } = await ingest.admin.keys.rotate.mutate({ id });
  expect(await reads(first)).toBe('OK');
  const { key: third } = await ingest.admin.keys.rotate.mutate({ id });
  ingest.clock.now += 1_000;
  expect(await Promise.all([first, second, third].map(reads))).toEqual(['UNAUTHORIZED', 'OK', 'OK']);
  const { key: fourth } = await ingest.admin.keys.rotate.mutate({ id, overlapSeconds: 0 });
  ingest.clock.now += 1_000;
  expect(await Promise.all([second, third, fourth].map(reads))).toEqual(['UNAUTHORIZED', 'UNAUTHORIZED', 'OK']);
});

test('the secret from before a rotation never outlives its key', async () => {
  const { id, key } = await ingest.admin.keys.create.mutate({ name: 'x', role: 'viewer', expiresAt: after(10_000) });
  await ingest.admin.keys.rotate.mutate({ id, overlapSeconds: 60 });
  ingest.clock.now += 10_000;
  expect(await reads(key)).toBe('UNAUTHORIZED');
});

test('revoking a key ends both of its secrets, and it cannot be rotated', async () => {
  const { id, key: first } = await ingest.admin.keys.create.mutate({ name: 'gone', role: 'viewer' });
  const { key: second } = await ingest.admin.keys.rotate.mutate({ id });
  expect(await Promise.all([first, second].map(reads))).toEqual(['OK', 'OK']);
  expect(await ingest.admin.keys.revoke.mutate({ id })).toMatchObject({ createdBy: 'admin', revokedBy: 'admin' });
  ingest.clock.now += 1_000;
  expect(await Promise.all([first, second].map(reads))).toEqual(['UNAUTHORIZED', 'UNAUTHORIZED']);
  await expect(ingest.admin.keys.rotate.mutate({ id })).rejects.toMatchObject({ data: { code: 'CONFLICT' } });
  await expect(ingest.admin.keys.rotate.mutate({ id: UNKNOWN })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
});

test('keys are listed in pages, oldest first, and a cursor belongs to its question', async () => {
  const made: string[] = [];
  for (let n = 0; n < 5; n++) made.push((await ingest.admin.keys.create.mutate({ name: `${n}`, role: 'viewer' })).id);
  await ingest.admin.keys.revoke.mutate({ id: made[2]! });
  const all = async (includeRevoked: boolean, limit: number) => {
    const ids: string[] = [];
    for (let cursor: string | undefined; ; ) {
      const page = await ingest.admin.keys.list.query({ includeRevoked, limit, ...(cursor && { cursor }) });
      expect(page.rows.length).toBeLessThanOrEqual(limit);
      ids.push(...page.rows.map(({ id }) => id));
      if (page.nextCursor === null) return ids;
      cursor = page.nextCursor;
    }
  };
  const whole = await all(true, 1_000);
  expect(whole.slice(-5)).toEqual(made);
  expect(await all(true, 2)).toEqual(whole);
  expect((await all(false, 3)).filter((id) => made.includes(id))).toEqual(made.filter((id) => id !== made[2]));
  const { nextCursor: cursor } = await ingest.admin.keys.list.query({ limit: 1 });
  await expect(ingest.admin.keys.list.query({ cursor: cursor!, includeRevoked: true })).rejects.toMatchObject({
    data: { code: 'INVALID_CURSOR' },
  });
});

test('keys are found by a part of their name, id, merchant or team', async () => {
  const make = (key: { name: string; merchantId?: string; teamId?: string }) =>
    ingest.admin.keys.create.mutate({ ...key, role: 'viewer' });
  const made = [
    await make({ name: 'Crawler of Zürich' }),
    await make({ name: 'x', merchantId: 'zuerich-co', teamId: 'night-shift' }),
    await make({ name: 'y', merchantId: 'zuerich-co' }),
  ];
  const found = async (search: string, more: { includeRevoked?: boolean; limit?: number; cursor?: string } = {}) =>
    (await ingest.admin.keys.list.query({ search, ...more })).rows.map(({ id }) =>
      made.findIndex((key) => key.id === id),
    );
  expect(await found('crawler OF')).toEqual([0]);
  expect(await found('zürich')).toEqual([0]);
  expect(await found('ZUERICH')).toEqual([1, 2]);
  expect(await found('night-')).toEqual([1]);
  expect(await found(made[2]!.id.toUpperCase())).toEqual([2]);
  expect(await found('%')).toEqual([]);
  const { nextCursor: cursor } = await ingest.admin.keys.list.query({ search: 'zuerich', limit: 1 });
  expect(await found('zuerich', { limit: 1, cursor: cursor! })).toEqual([2]);
  await expect(found('other', { cursor: cursor! })).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
  await ingest.admin.keys.revoke.mutate({ id: made[1]!.id });
  expect(await found('zuerich')).toEqual([2]);
  expect(await found('zuerich', { includeRevoked: true })).toEqual([1, 2]);
});

test('the list shows when a key was last used, to the minute, and never a secret or a hash', async () => {
  const { id, key } = await ingest.admin.keys.create.mutate({ name: 'used', role: 'viewer' });
  const rowOf = async () => {
    const { rows } = await ingest.admin.keys.list.query({ limit: 1_000 });
    return rows.find((row) => row.id === id);
  };
  expect(await rowOf()).toMatchObject({ lastUsedAt: null });
  const usedAt = after(0);
  await reads(key);
  await expect.poll(rowOf).toMatchObject({ lastUsedAt: usedAt });
  expect(JSON.stringify(await rowOf())).not.toMatch(/tally_viewer_|[0-9a-f]{64}/);
});

test('a member records and reads, and administers nothing', async () => {
  const { key } = await ingest.admin.keys.create.mutate({ name: 'both', role: 'member', merchantId: 'acme' });
  const member = ingest.clientWith(key);
  const entry = { id: 'm-1', merchantId: 'acme', time: after(0), metrics: { prompt_tokens: '3' } };
  expect(await member.usage.record.mutate({ entries: [entry] })).toMatchObject({ accepted: 1 });
  expect((await member.usage.current.query({ merchantId: 'acme' })).metrics).toMatchObject({ prompt_tokens: '3' });
  await expect(member.usage.current.query({ merchantId: 'globex' })).rejects.toMatchObject({
    data: { code: 'MERCHANT_FORBIDDEN' },
  });
  await expect(member.flush.merchant.mutate({ merchantId: 'acme' })).rejects.toMatchObject({
    data: { code: 'FORBIDDEN' },
  });
});

test('refuses cursors of other lists, and made-up ones', async () => {
  for (const name of ['paged-1', 'paged-2']) await ingest.admin.keys.create.mutate({ name, role: 'viewer' });
  const { nextCursor: cursor } = await ingest.admin.keys.list.query({ limit: 1 });
  const refused = { data: { code: 'INVALID_CURSOR' } };
  await expect(ingest.admin.budgets.list.query({ limit: 1, cursor: cursor! })).rejects.toMatchObject(refused);
  await expect(ingest.admin.audit.list.query({ limit: 1, cursor: cursor! })).rejects.toMatchObject(refused);
  const range = { startDate: '2026-03-01', endDate: '2026-03-01' };
  const of = { ...range, merchantIds: null };
  for (const place of [
    ['no day', '1'],
    ['2026-02-31', '1'],
    ['2026-03-01', 'no number'],
    ['2026-03-01', '9'.repeat(30)],
  ])
    await expect(
      ingest.admin.usage.conflicts.query({ ...range, cursor: encodeCursor(place, of) }),
    ).rejects.toMatchObject(refused);
  const past = encodeCursor(['9'.repeat(30)], { prices: { includeRemoved: false } });
  await expect(ingest.admin.prices.list.query({ cursor: past })).rejects.toMatchObject(refused);
});
