import { freshRedis } from '@tally/testkit';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
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
    ...{ stored, loads: 0, isOver: false, whileLoading: async () => {} },
    refresh: () => list.refresh(),
    freshen: () => list.freshen(),
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
        const loaded = await read();
        await process.whileLoading();
        return loaded;
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

test('a newer version is taken from Redis before it is next asked for, without Postgres', async () => {
  const [one, other] = [startProcess(version('1', 'a')), startProcess(version('2', 'b'))];
  await one.refresh();
  one.stored = undefined;
  await other.refresh();
  await one.freshen();
  expect([one.letters(), one.loads]).toEqual([['b'], 1]);
});

test('a list stays as it is where Redis has an older one, none, or something else', async () => {
  const process = startProcess(version('2', 'b'));
  await process.refresh();
  for (const text of ['{"version":"1","letters":["a"]}', '', '{"version":"3"}', '[]']) {
    await redis.set(KEY, text);
    const later = startProcess(version('2', 'b'));
    await later.freshen();
    expect(later.letters()).toEqual(text.includes('"1"') ? ['a'] : undefined);
    await later.refresh();
    await later.freshen();
    expect(later.letters()).toEqual(['b']);
  }
});

test('a load that ends late replaces nothing newer', async () => {
  const [late, other] = [startProcess(version('9', 'a')), startProcess(version('10', 'b'))];
  late.whileLoading = async () => {
    await other.refresh();
    await late.freshen();
  };
  await late.refresh();
  expect(late.letters()).toEqual(['b']);
  expect(await redis.get(KEY)).toContain('"10"');
});

test('a Postgres that was restored decides, also where Redis and processes have newer versions', async () => {
  const [one, other] = [startProcess(version('10', 'b')), startProcess(version('10', 'b'))];
  for (const each of [one, other]) await each.refresh();
  for (const each of [one, other]) each.stored = version('7', 'a');
  await one.refresh();
  expect(one.letters()).toEqual(['a']);
  await startProcess(version('7', 'a')).refresh();
  await one.freshen();
  await other.refresh();
  expect([one.letters(), other.letters()]).toEqual([['a'], ['a']]);
  expect(await redis.get(KEY)).toContain('"7"');
});

test('a missing copy is written again', async () => {
  const process = startProcess(version('2', 'b'));
  await process.refresh();
  await redis.del(KEY);
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

describe('a long list', () => {
  const letters = (number: number, prefix: string) => Array.from({ length: number }, (_, at) => `${prefix}${at}`);
  const namesOfParts = async () => (await redis.keys(`{${KEY}}:*`)).sort();

  test('is copied in parts, each a small command, and read as one', async () => {
    const many = letters(2_500, 'long-letter-');
    await startProcess(version('1', ...many)).refresh();
    const later = startProcess();
    await later.refresh();
    expect(later.letters()).toEqual(many);
    const [parts] = await namesOfParts();
    const lengths = (await redis.hvals(parts!)).map((part) => JSON.parse(part).letters.length);
    expect(lengths.sort()).toEqual([1_000, 1_000, 500]);
    expect(await redis.strlen(KEY)).toBeLessThan(200);
    expect(await redis.ttl(parts!)).toBe(-1);
  });

  test('is replaced as a whole; the parts of the one before go later', async () => {
    const one = startProcess(version('1', ...letters(1_500, 'a')));
    await one.refresh();
    const before = await namesOfParts();
    one.stored = version('2', ...letters(1_001, 'b'));
    await one.refresh();
    const later = startProcess();
    await later.freshen();
    expect(later.letters()).toEqual(letters(1_001, 'b'));
    expect(await redis.ttl(before[0]!)).toBeGreaterThan(0);
    one.stored = version('3', 'c');
    await one.refresh();
    await later.freshen();
    expect(await Promise.all((await namesOfParts()).map((parts) => redis.ttl(parts)))).not.toContain(-1);
    expect(JSON.parse((await redis.get(KEY))!).letters).toEqual(['c']);
  });

  test('without one of its parts is no list', async () => {
    await startProcess(version('1', ...letters(1_500, 'a'))).refresh();
    await redis.hdel((await namesOfParts())[0]!, '1');
    const later = startProcess();
    await expect(later.refresh()).rejects.toThrow('no connection');
    expect(later.letters()).toBeUndefined();
  });
});
