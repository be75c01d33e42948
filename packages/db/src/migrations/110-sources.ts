import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What each source has sent, and the last events of it that were rejected. */
export class Sources1763856000110 implements MigrationInterface {
  name = 'Sources1763856000110';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table source_states (
        source text primary key,
        accepted bigint not null,
        duplicates bigint not null,
        rejected bigint not null,
        skipped bigint not null,
        first_seen_at timestamptz not null,
        last_seen_at timestamptz not null
      )`);
    await runner.query(`
      create table source_rejections (
        id bigserial primary key,
        source text not null,
        at timestamptz not null,
        merchant_id text,
        event_id text,
        code text not null,
        message text not null
      )`);
    await runner.query('create index source_rejections_by_source on source_rejections (source, id)');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table source_rejections');
    await runner.query('drop table source_states');
  }
}
