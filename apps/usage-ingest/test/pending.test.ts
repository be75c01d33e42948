import { setImmediate as afterMicrotasks } from 'node:timers/promises';
import { createRedis, redisReady } from '@tally/service';
import { freshRedis } from '@tally/testkit';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Counters, createCounters } from '../src/counters/counters.ts';
import { noFaults } from '../src/faults.ts';

/**
 * Whether an acknowledged batch is always found by the flush, in whatever order the commands of those who store and of
 * those who remove reach Redis, and whoever of them dies between two commands.
 */
const MERCHANT = 'm';
const LIMITS = { typesPerDay: 100, dimensionsPerDay: 100, waitReplicas: 0 };

let store: Awaited<ReturnType<typeof freshRedis>>;
let redis: Redis;
let counters: Counters;

beforeAll(async () => {
  store = await freshRedis();
  redis = createRedis(store.url) as Redis;
  await redisReady(redis);
  counters = createCounters(redis, LIMITS, noFaults);
});
afterAll(async () => {
  redis.disconnect();
  await store.drop();
});

const part = fc.record({
  does: fc.constantFrom('store' as const, 'remove' as const),
  /** The number of commands after which it is dead; more than it has: it lives. */
  diesAfter: fc.nat({ max: 8 }),
});

test('what is acknowledged is pending, whatever the order of commands and whoever dies', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(part, { minLength: 2, maxLength: 4 }),
      fc.array(fc.nat(), { minLength: 24, maxLength: 24 }),
      async (parts, order) => {
        await redis.flushdb();
        const acknowledged = new Set<string>();
        const storeOne = async (own: Counters, id: string) => {
          await own.store(batchOf(id), Date.parse('2026-11-22T12:00:00Z'));
          acknowledged.add(id);
        };
        await storeOne(counters, 'before');
        const queues = parts.map(({ does, diesAfter }, index) => {
          const { connection, commands } = stepwise(diesAfter);
          const own = createCounters(connection, LIMITS, noFaults);
          void (does === 'store' ? storeOne(own, `${index}`) : removeAll(own));
          return commands;
        });
        await interleave(queues, order);
        const waiting = (await counters.oldestItems(MERCHANT, '+', 100)).map((item) => item.lines);
        const found = await counters.pendingMerchants();
        if (waiting.some((lines) => acknowledged.has(JSON.parse(lines)[0]))) expect(found).toEqual([MERCHANT]);
        // The next who removes clears up after the dead.
        if (waiting.length === 0) {
          await removeAll(counters);
          expect(await counters.pendingMerchants()).toEqual([]);
        }
        // What was stored and not acknowledged may be left to the sweep.
        await counters.sweep();
        if (waiting.length > 0) expect(await counters.pendingMerchants()).toEqual([MERCHANT]);
        await removeAll(counters);
        expect(await counters.pendingMerchants()).toEqual([]);
      },
    ),
    { numRuns: Number(process.env.FC_RUNS ?? 1_000), seed: Number(process.env.FC_SEED ?? Date.now() % 2 ** 31) },
  );
}, 300_000);

function batchOf(id: string) {
  const identities = [`2026-11-22 ${id}`];
  return { merchantId: MERCHANT, identities, lines: [JSON.stringify(id)], amounts: [], dimensions: new Map() };
}

async function removeAll(own: Counters): Promise<void> {
  await own.remove(MERCHANT, await own.oldestItems(MERCHANT, '+', 100));
}

type Command = () => Promise<unknown>;

/** Sends one command at a time, of the queue that `order` says, until all queues stay empty. */
async function interleave(queues: Command[][], order: number[]): Promise<void> {
  for (let step = 0; ; step++) {
    await afterMicrotasks();
    const ready = queues.filter((queue) => queue.length > 0);
    if (ready.length === 0) return;
    await ready[order[step % order.length]! % ready.length]!.shift()!();
  }
}

/** A connection that puts its commands in a queue, in their order, and none after its death. */
function stepwise(diesAfter: number): { connection: Redis; commands: Command[] } {
  const commands: Command[] = [];
  let left = diesAfter;
  const queued = (send: Command) =>
    new Promise((resolve, reject) => {
      if (left-- > 0) commands.push(() => send().then(resolve, reject));
    });
  const connection = new Proxy(redis, {
    get(target, name, receiver) {
      const member = Reflect.get(target, name, receiver);
      if (typeof member !== 'function' || name === 'defineCommand') return member;
      if (name !== 'multi') return (...args: unknown[]) => queued(() => member.apply(target, args));
      return () => {
        const transaction = target.multi();
        const exec = transaction.exec.bind(transaction);
        transaction.exec = () => queued(() => exec()) as ReturnType<typeof exec>;
        return transaction;
      };
    },
  });
  return { connection, commands };
}
