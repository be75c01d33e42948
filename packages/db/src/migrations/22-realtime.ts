import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What Redis knew of realtime metrics when it was last saved. */
export class Realtime1763856000021 implements MigrationInterface {
  name = 'Realtime1763856000021';

  async up(runner: QueryRunner): Promise<void> {
    // merchant_id '' is the platform; slice -1: a value without a window.
    await runner.query(`
      create table realtime_metrics_cache (
        merchant_id text not null,
        name text not null,
        labels text not null,
        slice bigint not null,
        type text not null check (type in ('COUNTER', 'GAUGE', 'HISTOGRAM', 'RATE')),
        meta jsonb not null,
        value jsonb not null,
        saved_at timestamptz not null default now(),
        expires_at timestamptz not null,
        primary key (merchant_id, name, labels, slice)
      )`);
    await runner.query(`create index realtime_metrics_cache_expires on realtime_metrics_cache (expires_at)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table realtime_metrics_cache`);
  }
}
