import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { migrate } from '@tally/db';
import { freePort, freshDatabase } from '@tally/testkit';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { startIngest } from './ingest-fixture.ts';

/** USD, as whole numbers: the amount of each reservation, and the limit. */
const RESERVED = 10;
const LIMIT = 600;
const CALLERS = 8;
/** Redis is killed after this many reservations. */
const KILLS = [15, 40];

async function startRedis() {
  const home = await mkdtemp(join(tmpdir(), 'tally-budgets-'));
  const port = await freePort();
  const url = `redis://127.0.0.1:${port}/0`;
  let server: ChildProcess;
  const run = async () => {
    const settings = ['--port', String(port), '--bind', '127.0.0.1', '--dir', home, '--save', ''];
    const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction'];
    server = spawn('redis-server', [...settings, ...durable], { stdio: 'ignore' });
    const client = new Redis(url, { retryStrategy: () => 20, maxRetriesPerRequest: null });
    client.on('error', () => {});
    await client.ping();
    client.disconnect();
  };
  const kill = async () => {
    server.kill('SIGKILL');
    await once(server, 'exit');
  };
  await run();
  return {
    url,
    async restart(isEmptied: boolean) {
      await kill();
      if (isEmptied) await rm(join(home, 'appendonlydir'), { recursive: true, force: true });
      await run();
    },
    async stop() {
      await kill();
      await rm(home, { recursive: true, force: true });
    },
  };
}

test.each([
  ['its data', false],
  ['nothing', true],
])(
  'many callers spend at most the bound, and no refusal is wrong, while Redis is killed and has %s',
  async (_, isEmptied) => {
    const [redis, database] = await Promise.all([startRedis(), freshDatabase(migrate)]);
    const settings = { ENABLE_FLUSH: 'true', POSTGRES_POOL_SIZE: '5', FLUSH_INTERVAL_MS: '50' };
    const ingest = await startIngest(settings, undefined, { databaseUrl: database.url, redisUrl: redis.url });
    const merchantId = 'crashed';
    const { id: budgetId } = await ingest.admin.budgets.create.mutate({
      ...{ scope: { merchantId }, measure: 'cost', limit: String(LIMIT), period: 'total', enforcement: 'hard' },
      whenUnavailable: 'refuse',
    });

    /** The most that may be used: what is or may be reserved, and what was or may be settled. */
    let most = 0;
    const watching = new Set<{ peak: number }>();
    const change = (by: number) => {
      most += by;
      for (const each of watching) each.peak = Math.max(each.peak, most);
    };
    const open = new Map<string, number>();
    let [acknowledged, reservedAtKills, reservations, isOver] = [0, 0, 0, false];
    const wrong: string[] = [];
    const kills = [...KILLS];
    let killing: Promise<void> = Promise.resolve();

    const again = async <T>(call: () => Promise<T>): Promise<T> => {
      for (;;) {
        try {
          return await call();
        } catch {
          await wait(20);
        }
      }
    };

    async function call(id: string, used: number): Promise<void> {
      const watch = { peak: most };
      watching.add(watch);
      change(RESERVED);
      const request = { id, merchantId, amounts: { cost: String(RESERVED) } };
      const { allowed, degraded, reservationId } = await again(() => ingest.admin.budgets.reserve.mutate(request));
      watching.delete(watch);
      if (!allowed) {
        change(-RESERVED);
        if (degraded) await wait(20);
        else if (watch.peak <= LIMIT) wrong.push(`${id}: at most ${watch.peak} were used`);
        else isOver = true;
        return;
      }
      open.set(id, RESERVED);
      if (++reservations >= (kills[0] ?? Number.POSITIVE_INFINITY)) {
        kills.shift();
        reservedAtKills += [...open.values()].reduce((sum, each) => sum + each, 0);
        killing = redis.restart(isEmptied);
      }
      const time = new Date(ingest.clock.now).toISOString();
      const entry = { id, merchantId, time, metrics: { cost: String(used) } };
      await again(() => ingest.admin.budgets.settle.mutate({ reservationId: reservationId!, entry }));
      open.delete(id);
      acknowledged += used;
      change(used - RESERVED);
    }

    await Promise.all(
      Array.from({ length: CALLERS }, async (_unused, caller) => {
        for (let n = 0; !isOver; n++) await call(`c${caller}-${n}`, 1 + ((caller + n) % RESERVED));
      }),
    );
    await killing;
    await expect.poll(async () => (await ingest.admin.flush.drain.mutate()).complete, { timeout: 60_000 }).toBe(true);
    const asked = { merchantId, date: new Date(ingest.clock.now).toISOString().slice(0, 10), metricType: 'cost' };
    const journal = Number((await ingest.admin.usage.explain.query(asked)).value);
    expect(wrong).toEqual([]);
    expect(kills).toEqual([]);
    // Nothing durable is lost; an emptied Redis loses pending events.
    if (isEmptied) expect(journal).toBeLessThanOrEqual(acknowledged);
    else expect(journal).toBe(acknowledged);
    expect(acknowledged).toBeLessThanOrEqual(LIMIT + reservedAtKills + (acknowledged - journal));
    await expect
      .poll(async () => (await ingest.admin.budgets.status.query({ id: budgetId })).rows[0]!.spent, { timeout: 60_000 })
      .toBe(String(journal));
    await ingest.close();
    await Promise.all([redis.stop(), database.drop()]);
  },
  240_000,
);
