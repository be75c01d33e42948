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

test('a search finds parts of ids, names and e-mail addresses in any case, page by page', async () => {
  const found = async (search: string, client = running.client) => {
    const ids: string[] = [];
    for (let cursor: string | null | undefined; cursor !== null; ) {
      const page = await client.directory.list.query({ kind: 'user', search, limit: 2, ...(cursor && { cursor }) });
      ids.push(...page.rows.map(({ id }) => id));
      cursor = page.nextCursor;
    }
    return ids;
  };
  expect(await found('NAME OF')).toEqual(['ann', 'bob', 'carl', 'dora', 'eve']);
  expect(await found('Dora@')).toEqual(['dora']);
  expect(await found('arl')).toEqual(['carl']);
  expect(await found('%')).toEqual([]);
  expect(await found('bob', viewer)).toEqual([]);
});

test('a team is in the next answer, stays where an entry says none, and is removed by null', async () => {
  const day = new Date().toISOString().slice(0, 10);
  const teams = async (client = running.client) => {
    const question = { startDate: day, endDate: day, by: 'team', sortBy: 'key', order: 'asc' } as const;
    return (await client.analytics.breakdown.query(question)).rows.map(({ key, label, requests }) => [
      key,
      label,
      requests,
    ]);
  };
  const bob = { kind: 'user', id: 'bob', name: 'Bob' } as const;
  const before = await teams();
  expect(before.map(([key]) => key)).toEqual(['unknown']);
  await running.client.directory.upsert.mutate({ entries: [{ ...bob, team: 'Sales' }] });
  expect((await teams())[0]).toEqual(['Sales', 'Sales', '1']);
  await running.client.directory.upsert.mutate({ entries: [{ ...bob, name: 'Robert' }] });
  expect((await teams())[0]).toEqual(['Sales', 'Sales', '1']);
  const { rows } = await running.client.directory.list.query({ kind: 'user', limit: 2 });
  expect(rows.map(({ id, name, team }) => [id, name, team])).toEqual([
    ['ann', 'Name of ann', null],
    ['bob', 'Robert', 'Sales'],
  ]);
  expect((await teams(viewer)).map(([key]) => key)).toEqual(['unknown']);
  for (const team of [null, 'unknown']) {
    await running.client.directory.upsert.mutate({ entries: [{ ...bob, team: 'Sales' }] });
    await running.client.directory.upsert.mutate({ entries: [{ ...bob, team }] });
    expect(await teams()).toEqual(before);
  }
});

test('two groupings have a row for each pair, and must differ', async () => {
  const day = new Date().toISOString().slice(0, 10);
  const question = { startDate: day, endDate: day, sortBy: 'key', order: 'asc', limit: 1 } as const;
  const by = ['merchant', 'user'] as ['merchant', 'user'];
  const page = await running.client.analytics.breakdown.query({ ...question, by });
  expect(page.rows[0]).toMatchObject({
    ...{ keys: ['acme', 'ann'], labels: ['Merchant acme', 'Name of ann'] },
    ...{ key: '["acme","ann"]', label: 'Merchant acme · Name of ann', requests: '1' },
    details: { merchant: { name: 'Merchant acme' }, user: { email: 'ann@example.com' } },
  });
  expect(page.total).toBe(3);
  const other = { ...question, by: ['user', 'merchant'] as ['user', 'merchant'], cursor: page.nextCursor! };
  await expect(running.client.analytics.breakdown.query(other)).rejects.toMatchObject({
    data: { code: 'INVALID_CURSOR' },
  });
  await expect(running.client.analytics.breakdown.query({ ...question, by: ['user', 'user'] })).rejects.toMatchObject({
    data: { code: 'INVALID_INPUT' },
  });
});

test('named ids are found with their own and general entries, in both forms of Unicode', async () => {
  await running.client.directory.upsert.mutate({
    entries: [
      { kind: 'user', id: 'ann', name: 'Ann of acme', merchantId: 'acme' },
      { kind: 'user', id: 'zo\u00eb', name: 'Zoë' },
    ],
  });
  const find = async (ids: string[], client = running.client, more = {}) => {
    const { rows, nextCursor } = await client.directory.list.query({ kind: 'user', ids, ...more });
    expect(nextCursor).toBe(null);
    return rows.map(({ id, merchantId }) => `${id} ${merchantId}`);
  };
  expect(await find(['dora', 'ann', 'nobody'])).toEqual(['ann null', 'ann acme', 'dora other']);
  expect(await find(['dora', 'ann'], running.client, { merchantId: 'acme' })).toEqual(['ann null', 'ann acme']);
  expect(await find(['dora', 'ann', 'bob'], viewer)).toEqual(['ann null', 'ann acme']);
  expect(await find(['zoe\u0308'])).toEqual(['zo\u00eb null']);
  expect(await find(['ann', 'bob'], running.client, { search: 'BOB' })).toEqual(['bob null']);
});

test('an id that merchants give to different people has no name in what covers several of them', async () => {
  const day = new Date().toISOString().slice(0, 10);
  const mine = (merchantId: string, id: string, name: string, email: string) =>
    ({ kind: 'user', id, merchantId, name, email }) as const;
  await running.client.directory.upsert.mutate({
    entries: [
      ...[mine('acme', '1', 'Una', 'una@acme.example'), mine('other', '1', 'Otto', 'otto@other.example')],
      ...[mine('acme', '2', 'Zoe', 'zoe@acme.example'), mine('other', '2', 'Zoe', 'zoe@other.example')],
      ...[mine('acme', '3', 'Max', 'max@example.com'), mine('other', '3', 'Max', 'max@example.com')],
    ],
  });
  for (const id of ['1', '2', '3']) {
    await record('acme', id, 'key-a');
    await record('other', id, 'key-b');
  }
  const named = async (merchantIds?: string[]) => {
    const question = { startDate: day, endDate: day, by: 'user', sortBy: 'key', order: 'asc' } as const;
    const asked = { ...question, userIds: ['1', '2', '3'], merchantIds };
    const { rows } = await running.client.analytics.breakdown.query(asked);
    return rows.map(({ label, details }) => [label, details.email]);
  };
  expect(await named(['other'])).toEqual([
    ['Otto', 'otto@other.example'],
    ['Zoe', 'zoe@other.example'],
    ['Max', 'max@example.com'],
  ]);
  const several = [
    ['1', null],
    ['2', null],
    ['Max', 'max@example.com'],
  ];
  expect(await named()).toEqual(several);
  expect(await named(['acme', 'other'])).toEqual(several);
});
