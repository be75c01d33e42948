import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Copies of realtime metrics are numbered, so that a Redis that came back with older data is told from a whole one. */
export class RealtimeEpochs1763856000022 implements MigrationInterface {
  name = 'RealtimeEpochs1763856000022';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table realtime_metrics_cache add column epoch bigint not null default 0`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table realtime_metrics_cache drop column epoch`);
  }
}
