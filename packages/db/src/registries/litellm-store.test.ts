import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { createDataSource } from '../data-source.ts';
import { LitellmCalls1763856000046 } from '../migrations/46-litellm-calls.ts';
import { type Db, openDb } from '../open-db.ts';
import { migrate } from '../schema.ts';
import type { LitellmCall } from './litellm-store.ts';

const NOON = Date.parse('2026-03-01T12:00:00Z');

const call = (alias: string, more: Partial<LitellmCall> = {}): LitellmCall => ({
  merchantId: 'm',
  alias,
  entryId: alias,
  time: NOON,
  isSentTime: false,
  responseId: null,
  failed: false,
  promptTokens: 9_007_199_254_740_993n,
  completionTokens: null,
  cost: 0n,
  ...more,
});

describe('claiming calls', () => {
  let store: FreshStore;
  let db: Db;
  beforeAll(async () => {
    store = await freshDatabase(migrate);
    db = await openDb(store.url, { poolSize: 8 });
  });
  afterAll(async () => {
    await db.close();
    await store.drop();
  });

  async function read(...aliases: string[]): Promise<LitellmCall[]> {
    let known: LitellmCall[] = [];
    await db.litellm.claimCalls(
      aliases.map((alias) => ({ merchantId: 'm', alias })),
      (found) => {
        known = found;
        return [];
      },
    );
    return known;
  }

  test('returns what was stored, of the merchant and the ids asked for', async () => {
    const stored = [call('a', { responseId: 'r' }), call('b', { failed: null, isSentTime: true })];
    await db.litellm.claimCalls([], () => [...stored, call('c'), call('a', { merchantId: 'other' })]);
    expect(await read('a', 'b', 'a', 'unknown')).toEqual(expect.arrayContaining(stored));
    expect(await read('a', 'b', 'unknown')).toHaveLength(2);
  });

  test('keeps what was stored first, and fills in only a missing response id', async () => {
    await db.litellm.claimCalls([], () => [call('first')]);
    await db.litellm.claimCalls([], () => [call('first', { responseId: 'r', promptTokens: 1n, failed: true })]);
    await db.litellm.claimCalls([], () => [call('first', { responseId: 'another' })]);
    expect(await read('first')).toEqual([call('first', { responseId: 'r' })]);
  });

  test('decides one claim after the other, also of several processes', async () => {
    let unknown = 0;
    await Promise.all(
      Array.from({ length: 20 }, () =>
        db.litellm.claimCalls([{ merchantId: 'm', alias: 'once' }], (known) => {
          if (known.length > 0) return [];
          unknown++;
          return [call('once')];
        }),
      ),
    );
    expect(unknown).toBe(1);
  });

  test('deletes calls of days whose journal is closed, and no others', async () => {
    const client = new pg.Client({ connectionString: store.url });
    await client.connect();
    onTestFinished(() => client.end());
    await db.litellm.claimCalls([], () =>
      ['2026-01-01', '2026-01-02', '2026-01-03'].map((day) =>
        call(`of ${day}`, { time: Date.parse(`${day}T12:00:00Z`) }),
      ),
    );
    await client.query(`insert into usage_closed_days (date, entries) values ('2026-01-01', 1), ('2026-01-03', 1)`);
    await db.litellm.prune('2025-01-01');
    expect((await read('of 2026-01-01', 'of 2026-01-02', 'of 2026-01-03')).map(({ alias }) => alias)).toEqual([
      'of 2026-01-02',
    ]);
  });
});

test('the migration knows the calls counted before it, by their ids and around midnights', async () => {
  const store = await freshDatabase(migrate, { onOneNode: true });
  const dataSource = await createDataSource(store.url).initialize();
  onTestFinished(async () => {
    await dataSource.destroy();
    await store.drop();
  });
  const runner = dataSource.createQueryRunner();
  onTestFinished(() => runner.release());
  const migration = new LitellmCalls1763856000046();
  await migration.down(runner);
  const at = '2026-03-01T12:00:00.123Z';
  const insert = (id: string, time: string, properties: object, date = time.slice(0, 10)) =>
    runner.query(
      `insert into usage_events (date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
         prompt_tokens, cost, properties, flush_id)
       values ($1, 'm', $2, $3, '', '', '', '', false, 1, 7, 0, $4, 1)`,
      [date, id, time, JSON.stringify(properties)],
    );
  await runner.query(`create table usage_events_20260301 partition of usage_events
    for values from ('2026-03-01') to ('2026-03-03')`);
  await runner.query(`insert into litellm_days (date, told_by) values ('2026-03-01', 'calls'), ('2026-03-02', 'sums')`);
  await insert('by response', at, { source: 'litellm' });
  await insert('by event', at, { source: 'litellm', cloud_event: 'litellm_tokens' });
  await insert('a hit of a call id', at, { source: 'litellm', cache_hit: true });
  await insert('hit_cache_hit@1772366400123', at, { source: 'litellm', cache_hit: true });
  await insert('of a sum', '2026-03-02T00:00:00Z', { source: 'litellm', daily: true });
  await insert('of another source', at, {});
  await runner.query(`insert into litellm_midnight_calls (midnight, merchant_id, id, time)
    values ('2026-03-02', 'm', 'near', '2026-03-01T23:59:58Z'), ('2026-03-02', 'm', 'by response', '2026-03-01T23:00:00Z')`);

  await migration.up(runner);
  const rows = async () =>
    (await runner.query(
      `select alias, entry_id, date, floor(extract(epoch from time) * 1000)::text as ms, is_sent_time, failed,
         prompt_tokens, cost from litellm_calls order by alias`,
    )) as Record<string, unknown>[];
  const of = {
    date: '2026-03-01',
    ms: '1772366400123',
    is_sent_time: false,
    failed: false,
    prompt_tokens: '7',
    cost: null,
  };
  const hit = { ...of, entry_id: 'a hit of a call id' };
  expect(await rows()).toEqual([
    { ...hit, alias: 'a hit of a call id' },
    { ...hit, alias: 'a hit of a call id_cache_hit@1772366400123' },
    { ...hit, alias: 'a hit of a call id_cache_hit@1772366400124' },
    { ...of, alias: 'by event', entry_id: 'by event', is_sent_time: true },
    { ...of, alias: 'by response', entry_id: 'by response' },
    { ...of, alias: 'hit_cache_hit@1772366400123', entry_id: 'hit_cache_hit@1772366400123' },
    {
      ...of,
      alias: 'near',
      entry_id: 'near',
      ms: '1772409598000',
      is_sent_time: true,
      failed: null,
      prompt_tokens: null,
    },
  ]);

  await migration.down(runner);
  expect(await runner.query(`select midnight, merchant_id, id, time from litellm_midnight_calls order by id`)).toEqual([
    { midnight: '2026-03-02', merchant_id: 'm', id: 'near', time: new Date('2026-03-01T23:59:58Z') },
  ]);
  await migration.up(runner);
});
