import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../../infra/local/servers.mjs';
import { createHangGuard } from './hang-guard.ts';
import { openDb } from './open-db.ts';

let home: string;
let servers: Servers;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-hang-'));
  servers = await startServers({ home, durable: false, only: ['postgres'] });
});
afterAll(async () => {
  await servers.remove();
  await rm(home, { recursive: true, force: true });
});

/** The server and its backends. */
function family(): number[] {
  const children = spawnSync('pgrep', ['-P', String(servers.postgres.pid)], { encoding: 'utf8' }).stdout;
  return [servers.postgres.pid!, ...children.split('\n').filter(Boolean).map(Number)];
}

test('a statement fails when Postgres hangs, and works again when it goes on', async () => {
  const db = await openDb(servers.postgres.url);
  await db.look();
  const stopped = family();
  for (const pid of stopped) process.kill(pid, 'SIGSTOP');
  try {
    await expect(db.look()).rejects.toThrow(/terminated|does not answer/);
  } finally {
    for (const pid of stopped) process.kill(pid, 'SIGCONT');
  }
  await expect(db.look()).resolves.toMatchObject({ readOnly: false });
  await db.close();
});

test('a statement that takes longer than a probe goes on', async () => {
  const guard = createHangGuard(servers.postgres.url);
  const client = new pg.Client({ connectionString: servers.postgres.url, stream: guard.stream });
  await client.connect();
  const { rows } = await client.query('select pg_sleep(7), 1 as done');
  expect(rows).toMatchObject([{ done: 1 }]);
  await client.end();
  guard.close();
});
