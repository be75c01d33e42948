import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Adds the leases by which flushers divide the shards among themselves. One row per shard, for ever. */
export class Shards1763856000060 implements MigrationInterface {
  name = 'Shards1763856000060';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create sequence usage_shard_tokens as bigint;
      create table usage_shards (
        shard integer primary key check (shard >= 0),
        token bigint not null default 0,
        holder text not null default '',
        expires_at timestamptz not null default '-infinity'
      ) with (fillfactor = 50)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table usage_shards');
    await runner.query('drop sequence usage_shard_tokens');
  }
}
