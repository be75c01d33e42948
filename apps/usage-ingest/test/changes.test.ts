import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@tally/db';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../../infra/local/servers.mjs';
import { type Fixture, startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';
let home: string;
let servers: Servers;
let ingest: Fixture;

/** Servers of its own: a change is listed once no older transaction of any database of the server is open. */
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-changes-'));
  servers = await startServers({ home, durable: false });
  await migrate(servers.databaseUrl);
  ingest = await startIngest({}, undefined, servers);
});
afterAll(async () => {
  await ingest.close();
  await servers.remove();
  await rm(home, { recursive: true, force: true });
});

const record = (id: string, ...merchantIds: string[]) =>
  ingest.admin.usage.record.mutate({
    entries: merchantIds.map((merchantId) => ({ id, merchantId, time: `${DAY}T10:00:00Z`, metrics: { seats: '1' } })),
  });

type Asked = { merchantIds?: string[]; limit?: number };

/**
 * Reads all changes after a cursor until the expected ones are among them: a change may be repeated while another
 * transaction was open.
 */
async function follow(client: Fixture['admin'], since: string | undefined, expected: string[], asked: Asked = {}) {
  let cursor = since;
  const found = new Set<string>();
  await expect
    .poll(async () => {
      for (let hasMore = true; hasMore; ) {
        const page = await client.usage.changes.query({ ...asked, ...(cursor && { since: cursor }) });
        for (const { merchantId, date } of page.rows) found.add(`${merchantId} ${date}`);
        ({ hasMore, nextCursor: cursor } = page);
      }
      return [...found];
    })
    .toEqual(expect.arrayContaining(expected));
  return cursor!;
}

test('lists what was counted, corrected and closed since a cursor; a bound key sees its merchant only', async () => {
  await record('a', 'acme', 'globex');
  await ingest.admin.flush.drain.mutate({});
  const all = await follow(ingest.admin, undefined, [`acme ${DAY}`, `globex ${DAY}`], { limit: 1 });
  const { key } = await ingest.admin.keys.create.mutate({ name: 'copy', role: 'viewer', merchantId: 'acme' });
  const bound = ingest.clientWith(key);
  const own = await follow(bound, undefined, [`acme ${DAY}`]);
  const { rows } = await bound.usage.changes.query({});
  expect(rows.map(({ merchantId }) => merchantId)).toEqual(['acme']);

  await record('b', 'globex');
  await ingest.admin.flush.drain.mutate({});
  const next = await follow(ingest.admin, all, [`globex ${DAY}`]);
  await ingest.admin.usage.adjust.mutate({
    ...{ id: 'x', merchantId: 'acme', date: '2026-11-20', metrics: { seats: '1' }, reason: 'a credit' },
  });
  const corrected = await follow(ingest.admin, next, ['acme 2026-11-20']);
  await follow(bound, own, ['acme 2026-11-20']);

  await ingest.admin.usage.void.mutate({ merchantId: 'globex', id: 'b', date: DAY, reason: 'a test call' });
  const voided = await follow(ingest.admin, corrected, [`globex ${DAY}`]);
  await ingest.admin.reconcile.rebuild.mutate({ startDate: DAY, endDate: DAY, merchantIds: ['acme'] });
  await follow(ingest.admin, voided, [`acme ${DAY}`]);
});

test.each(['', 'e1', 'WyJhIl0'])('refuses a cursor that is made up: %j', async (since) => {
  await expect(ingest.admin.usage.changes.query({ since })).rejects.toMatchObject({ data: { code: 'INVALID_CURSOR' } });
});

test('refuses the cursor of another question', async () => {
  const { nextCursor } = await ingest.admin.usage.changes.query({});
  await expect(ingest.admin.usage.changes.query({ since: nextCursor, merchantIds: ['acme'] })).rejects.toMatchObject({
    data: { code: 'INVALID_CURSOR' },
  });
});
