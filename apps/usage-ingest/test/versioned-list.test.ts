import { freshRedis } from '@tally/testkit';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { createVersionedList } from '../src/versioned-list.ts';

const KEY = 'registry:letters';
const Letters = z.object({ version: z.string(), letters: z.array(z.string()) });

let store: Awaited<ReturnType<typeof freshRedis>>;
let redis: Redis;

beforeAll(async () => {
  store = await freshRedis();
  redis = new Redis(store.url);
});
beforeEach(() => redis.flushdb());
afterAll(async () => {
  await redis.quit();
  await store.drop();
});

/** A process with the list; `stored` is what Postgres has, undefined while it is unavailable. */
function startProcess(stored?: z.output<typeof Letters>) {
  const process = {
    ...{ stored, loads: 0, isOver: false },
    refresh: () => list.refresh(),
    letters: () => list.current()?.letters,
  };
  const read = async () => {
    if (process.stored === undefined) throw new Error('no connection');
    return process.stored;
  };
  const list = createVersionedList({
    ...{ redis, key: KEY, copy: Letters },
    store: {
      version: async () => (await read()).version,
      async load() {
        process.loads++;
        return read();
      },
    },
    prepare: (each) => each,
    isOver: () => process.isOver,
  });
  return process;
}

const version = (number: string, ...letters: string[]) => ({ version: number, letters });

test('is loaded when its version changes, or when it is over', async () => {
  const process = startProcess(version('1', 'a'));
  await process.refresh();
  await process.refresh();
  expect([process.letters(), process.loads]).toEqual([['a'], 1]);
  process.stored = version('2', 'b');
  await process.refresh();
  expect([process.letters(), process.loads]).toEqual([['b'], 2]);
  process.isOver = true;
  await process.refresh();
  expect(process.loads).toBe(3);
});

test.each([
  ['9', '10'],
  ['3', '4/0'],
  ['4/9', '4/10'],
  ['4/9', '5'],
])('without Postgres, a process with version %s takes version %s from another one', async (older, newer) => {
  const [one, other] = [startProcess(version(older, 'a')), startProcess(version(newer, 'b'))];
  await one.refresh();
  one.stored = undefined;
  await expect(one.refresh()).rejects.toThrow('no connection');
  expect(one.letters()).toEqual(['a']);
  await other.refresh();
  await one.refresh();
  expect(one.letters()).toEqual(['b']);
});

test('a process never goes back to an older version', async () => {
  const [newer, older] = [startProcess(version('10', 'b')), startProcess(version('9', 'a'))];
  await newer.refresh();
  await older.refresh();
  newer.stored = undefined;
  await expect(newer.refresh()).rejects.toThrow('no connection');
  expect(newer.letters()).toEqual(['b']);
});

test('a copy that is missing or older is written again', async () => {
  const process = startProcess(version('2', 'b'));
  await process.refresh();
  await redis.del(KEY);
  await process.refresh();
  const old = startProcess(version('1', 'a'));
  await old.refresh();
  await process.refresh();
  const later = startProcess();
  await later.refresh();
  expect(later.letters()).toEqual(['b']);
});

test('a process that starts without Postgres and without a copy knows nothing', async () => {
  const process = startProcess();
  await expect(process.refresh()).rejects.toThrow('no connection');
  expect(process.letters()).toBeUndefined();
});
