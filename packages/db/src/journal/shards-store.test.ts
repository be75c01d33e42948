import { freshDatabase } from '@tally/testkit';
import type { DataSource } from 'typeorm';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createDataSource } from '../data-source.ts';
import { migrate } from '../schema.ts';
import { checkFence, createShardsStore, LeaseLostError, type ShardsStore } from './shards-store.ts';

const LONG = 60_000;
const ALL = [0, 1, 2, 3];

let database: Awaited<ReturnType<typeof freshDatabase>>;
let dataSource: DataSource;
let shards: ShardsStore;

beforeAll(async () => {
  database = await freshDatabase(migrate);
  dataSource = await createDataSource(database.url).initialize();
  shards = createShardsStore(dataSource);
});
afterAll(async () => {
  await dataSource.destroy();
  await database.drop();
});
beforeEach(async () => {
  await dataSource.query('delete from usage_shards');
  await shards.count(ALL.length);
});

const inTransaction = <T>(work: (query: Parameters<typeof checkFence>[0]) => Promise<T>) =>
  dataSource.transaction(async ({ queryRunner }) => work(queryRunner!));

test('the first count of shards holds for ever', async () => {
  await dataSource.query('delete from usage_shards');
  expect(new Set(await Promise.all([7, 9, 11].map((wanted) => shards.count(wanted)))).size).toBe(1);
  const first = await shards.count(64);
  expect([7, 9, 11]).toContain(first);
});

test('a shard has one holder, and the next one gets a larger token', async () => {
  const first = (await shards.take(ALL, 3, 'one', LONG))!;
  expect(first.shards).toEqual([0, 1, 2]);
  const second = (await shards.take(ALL, 4, 'two', LONG))!;
  expect(second.shards).toEqual([3]);
  expect(second.token).toBeGreaterThan(first.token);
  expect(await shards.take(ALL, 4, 'three', LONG)).toBeUndefined();
  await shards.release(first);
  expect((await shards.take(ALL, 4, 'three', LONG))!.shards).toEqual([0, 1, 2]);
});

test('a lease that ran out holds until somebody else takes the shard', async () => {
  const lost = (await shards.take(ALL, 4, 'one', 0))!;
  await inTransaction((transaction) => checkFence(transaction, lost));
  const taken = (await shards.take([2], 4, 'two', LONG))!;
  expect(taken.shards).toEqual([2]);
  await expect(inTransaction((transaction) => checkFence(transaction, lost))).rejects.toThrow(LeaseLostError);
  await shards.release(lost);
  expect(await shards.take([2], 4, 'three', LONG)).toBeUndefined();
});

test('nobody takes a shard while a transaction counts under its lease', async () => {
  const fence = (await shards.take([0], 1, 'one', 0))!;
  await inTransaction(async (transaction) => {
    await checkFence(transaction, fence);
    expect(await shards.take([0], 1, 'two', LONG)).toBeUndefined();
  });
  expect(await shards.take([0], 1, 'two', LONG)).toMatchObject({ shards: [0] });
});
