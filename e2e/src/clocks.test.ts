import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addDays, dayOf, HOUR_MS } from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import {
  type FreshStore,
  freshDatabase,
  freshRedis,
  type ServiceProcess,
  startServiceProcess,
  until,
} from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** Services whose clocks differ by hours and days from each other and from the stores, and change while they run. */
const KEY = 'the-admin-key-of-the-clocks';
const DAY_HOURS = 24;

let folder: string;
let stores: { postgres: FreshStore; redis: FreshStore };
let postgres: pg.Client;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-clocks-'));
  // The clock of a process is off by the hours in its file, which it reads again on SIGUSR2.
  await writeFile(
    join(folder, 'clock.mjs'),
    `import { readFileSync } from 'node:fs';
     const now = Date.now;
     const read = () => Number(readFileSync(process.env.CLOCK, 'utf8')) * 3_600_000;
     let off = read();
     process.on('SIGUSR2', () => { off = read(); });
     Date.now = () => now() + off;
     globalThis.Date = class extends Date { constructor(...a) { a.length ? super(...a) : super(now() + off); } };`,
  );
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  stores = { postgres: database, redis };
  postgres = new pg.Client({ connectionString: database.url });
  await postgres.connect();
});
afterAll(async () => {
  await postgres.end();
  await Promise.all([stores.postgres.drop(), stores.redis.drop()]);
  await rm(folder, { recursive: true, force: true });
});

type Clocked = { client: IngestClient; process: ServiceProcess; setClock(hours: number): Promise<void> };

let processes = 0;
async function withIngests(
  hours: readonly number[],
  run: (...ingests: Clocked[]) => Promise<void>,
  settings: Record<string, string> = {},
): Promise<void> {
  const started: Clocked[] = [];
  try {
    for (const off of hours) {
      const file = join(folder, `clock-${processes++}`);
      await writeFile(file, `${off}`);
      const process_ = await startServiceProcess('usage-ingest', {
        ...{ DATABASE_URL: stores.postgres.url, REDIS_URL: stores.redis.url, TALLY_ADMIN_KEY: KEY },
        ...{ CLOCK: file, NODE_OPTIONS: `--import ${join(folder, 'clock.mjs')}`, FLUSH_INTERVAL_MS: '50' },
        ...{ LOG_LEVEL: 'fatal', ...settings },
      });
      started.push({
        process: process_,
        client: createIngestClient({ url: process_.url, key: KEY }),
        async setClock(later) {
          await writeFile(file, `${later}`);
          process.kill(process_.pid, 'SIGUSR2');
          const isSet = async () =>
            /clock/.test(JSON.stringify(await (await fetch(`${process_.url}/readyz`)).json())) === (later !== 0);
          await until('the clock to be set', isSet);
        },
      });
    }
    await run(...started);
  } finally {
    for (const each of started) await each.process.stop();
  }
}

const rows = async (text: string, values: unknown[] = []) => (await postgres.query(text, values)).rows;
const openDays = async () =>
  (await rows(`select relname as day from pg_class where relname ~ '^usage_events_\\d{8}$' order by 1`)).map(
    ({ day }) => day as string,
  );

test('a service whose clock is 400 days ahead drops no events, and ends no day', async () => {
  const merchantId = 'ahead';
  await withIngests([0, 400 * DAY_HOURS], async (right, wrong) => {
    const entries = [0, 1, 2].map((ago) => ({
      ...{ id: `e${ago}`, merchantId, metrics: { queries: '1' } },
      time: new Date(Date.now() - ago * DAY_HOURS * HOUR_MS).toISOString(),
    }));
    expect((await right.client.usage.record.mutate({ entries })).accepted).toBe(3);
    await right.client.flush.drain.mutate({});
    const before = await openDays();
    expect(await wrong.client.journal.close.mutate({})).toEqual({ closed: [] });
    expect(await openDays()).toEqual(before);
    const today = dayOf(Date.now());
    // A day is rolled up an hour after it is over.
    const over = dayOf(Date.now() - HOUR_MS);
    await until('days to be rolled up', async () => {
      const [row] = await rows('select date::text from usage_rolled_up');
      return row.date >= over;
    });
    expect((await rows('select date::text from usage_rolled_up'))[0].date <= addDays(today, 1)).toBe(true);
    // What it counted is recognised, and what comes is counted.
    expect(await right.client.usage.record.mutate({ entries })).toMatchObject({ accepted: 0, duplicates: 3 });
    expect(await right.client.usage.record.mutate({ entries: [{ ...entries[0]!, id: 'next' }] })).toMatchObject({
      accepted: 1,
    });
    await right.client.flush.drain.mutate({});
    expect(await rows('select id from usage_events where merchant_id = $1', [merchantId])).toHaveLength(4);
  });
});

test('services that disagree by hours, and change their clocks meanwhile, count each event once', async () => {
  const merchantId = 'disagreeing';
  await withIngests([0, 3, -3], async (...ingests) => {
    let [sent, accepted] = [0, 0];
    for (const clocks of [
      [0, 3, -3],
      [0, -3, 3],
      [0, 0, 0],
    ]) {
      await Promise.all(ingests.map((ingest, index) => ingest.setClock(clocks[index]!)));
      for (let round = 0; round < 10; round++) {
        const entries = Array.from({ length: 20 }, () => ({
          ...{ id: `e${sent++}`, merchantId, metrics: { queries: '1' } },
          time: new Date(Date.now() - 4 * HOUR_MS).toISOString(),
        }));
        // Every copy goes to every service.
        const answers = await Promise.all(ingests.map(({ client }) => client.usage.record.mutate({ entries })));
        accepted += answers.reduce((sum, answer) => sum + answer.accepted, 0);
        expect(answers.flatMap(({ rejected }) => rejected)).toEqual([]);
      }
    }
    await ingests[0]!.client.flush.drain.mutate({});
    expect(accepted).toBe(sent);
    expect(await rows('select id from usage_events where merchant_id = $1', [merchantId])).toHaveLength(sent);
    const range = { startDate: addDays(dayOf(Date.now()), -3), endDate: dayOf(Date.now()) };
    for (const { client } of ingests)
      expect((await client.reconcile.check.query({ ...range, merchantIds: [merchantId] })).drift).toEqual([]);
  });
});
