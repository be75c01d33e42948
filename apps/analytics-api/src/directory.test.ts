import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Running, startAnalytics } from '../test/start.ts';

let running: Running;
let viewer: Running['client'];

beforeAll(async () => {
  running = await startAnalytics();
  const { key } = await running.ingest.keys.create.mutate({ name: 'viewer', role: 'viewer', merchantId: 'acme' });
  viewer = running.clientOf(running.app, key);
  const user = (id: string, merchantId: string | null = null) => ({
    kind: 'user' as const,
    id,
    name: `Name of ${id}`,
    email: `${id}@example.com`,
    role: 'user',
    merchantId,
  });
  const apiKey = (id: string) => ({ kind: 'apiKey' as const, id, name: `Key ${id}` });
  const merchant = (id: string) => ({ kind: 'merchant' as const, id, name: `Merchant ${id}` });
  await running.client.directory.upsert.mutate({
    entries: [
      ...[user('ann'), user('bob'), user('carl', 'acme'), user('dora', 'other'), user('eve')],
      ...[apiKey('key-a'), apiKey('key-b'), merchant('acme'), merchant('other')],
    ],
  });
  await record('acme', 'ann', 'key-a');
  await record('other', 'bob', 'key-b');
});
afterAll(() => running.stop());

async function record(merchantId: string, userId: string, apiKey: string) {
  const time = new Date().toISOString();
  const entries = [{ id: `${merchantId}-${userId}`, merchantId, time, userId, apiKey, metrics: {} }];
  await running.ingest.usage.record.mutate({ entries });
  await running.client.analytics.refresh.mutate({});
}

async function listed(client: Running['client'], kind: 'user' | 'apiKey' | 'merchant', limit = 100) {
  const ids: string[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await client.directory.list.query({ kind, limit, ...(cursor && { cursor }) });
    ids.push(...page.rows.map(({ id }) => id));
    cursor = page.nextCursor;
  }
  return ids;
}

test('a caller bound to a merchant lists its own entries and those of ids in its own usage, and no others', async () => {
  expect(await listed(viewer, 'user')).toEqual(['ann', 'carl']);
  expect(await listed(viewer, 'user', 1)).toEqual(['ann', 'carl']);
  expect(await listed(viewer, 'apiKey')).toEqual(['key-a']);
  expect(await listed(viewer, 'merchant')).toEqual(['acme']);
  await record('acme', 'eve', 'key-b');
  expect(await listed(viewer, 'user')).toEqual(['ann', 'carl', 'eve']);
  expect(await listed(viewer, 'apiKey')).toEqual(['key-a', 'key-b']);
});

test('a caller bound to no merchant lists all', async () => {
  expect(await listed(running.client, 'user')).toEqual(['ann', 'bob', 'carl', 'dora', 'eve']);
  expect(await listed(running.client, 'merchant')).toEqual(['acme', 'other']);
});
