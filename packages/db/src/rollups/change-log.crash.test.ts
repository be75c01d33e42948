import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Servers, startServers } from '../../../../infra/local/servers.mjs';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { ChangePlace } from './change-log-store.ts';

const DAY = '2026-11-20';
/** Numbers of transactions that change nothing: their ends reach the disk later, and a crash gives them again. */
const FORGOTTEN = 500;

let home: string;
let servers: Servers;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-change-log-'));
  servers = await startServers({ home, durable: true, only: ['postgres'] });
  await migrate(servers.databaseUrl);
});
afterAll(async () => {
  await servers.remove();
  await rm(home, { recursive: true, force: true });
});

async function withDb<T>(work: (db: Db) => Promise<T>): Promise<T> {
  const db = await openDb(servers.databaseUrl, { poolSize: 2 });
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}

const append = (db: Db, merchantId: string) =>
  db.journal.append({
    source: 'direct',
    lines: [{ merchant_id: merchantId, date: DAY, time: Date.parse(DAY), id: 'e', requests: '1', origin: merchantId }],
  });

/** Reads pages until there are no more; returns the merchants and the place to continue from. */
const follow = async (db: Db, from?: ChangePlace) => {
  const merchants: string[] = [];
  for (let place = from; ; ) {
    const { rows, next, hasMore } = await db.changeLog.after(place, { limit: 10 });
    merchants.push(...rows.map(({ merchantId }) => merchantId));
    place = next;
    if (!hasMore) return { merchants, place };
  }
};

test('a reader misses nothing after a crash of Postgres, which gives numbers of transactions again', async () => {
  const superuser = new pg.Client({ connectionString: servers.superuserUrl });
  superuser.on('error', () => {});
  await superuser.connect();
  await superuser.query(`alter system set wal_writer_delay = '10s'`);
  await superuser.query('select pg_reload_conf()');
  await withDb((db) => append(db, 'before'));
  const db = await openDb(servers.databaseUrl, { poolSize: 2 });
  await superuser.query(
    `do $$ begin for each in 1..${FORGOTTEN} loop perform pg_current_xact_id(); commit; end loop; end $$`,
  );
  const { merchants, place } = await follow(db);
  await servers.postgres!.kill('SIGKILL');
  expect(merchants).toContain('before');
  await db.close().catch(() => {});
  await servers.postgres!.start();
  await withDb(async (again) => {
    for (const merchantId of ['after-1', 'after-2']) await append(again, merchantId);
    expect((await follow(again, place)).merchants).toEqual(['after-1', 'after-2']);
  });
});

test('a reader starts over after a restore from a copy, whose transactions get the same numbers again', async () => {
  const superuser = new pg.Client({ connectionString: servers.superuserUrl });
  await superuser.connect();
  const { rows } = await superuser.query(`select current_setting('data_directory') as data`);
  await superuser.end();
  const data: string = rows[0].data;
  const copy = `${data}-copy`;
  const appendFew = (prefix: string) =>
    withDb(async (db) => {
      for (const number of [1, 2, 3]) await append(db, `${prefix}-${number}`);
    });

  await appendFew('kept');
  await servers.postgres!.stop();
  execFileSync('cp', ['-a', data, copy]);
  await servers.postgres!.start();
  await appendFew('lost');
  const { place } = await withDb((db) => follow(db));
  await servers.postgres!.stop();
  await rm(data, { recursive: true });
  execFileSync('mv', [copy, data]);
  await servers.postgres!.start();
  await appendFew('new');
  await withDb(async (db) => {
    const expected = ['kept', 'new'].flatMap((prefix) => [1, 2, 3].map((number) => `${prefix}-${number}`));
    expect((await follow(db, place)).merchants).toEqual(expect.arrayContaining(expected));
  });
});
