import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Days on which a reconciliation found numbers that differ, for alerts: how many at most, and some of them. */
export class Drift1763856000232 implements MigrationInterface {
  name = 'Drift1763856000232';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table drift_days (
        found_on date primary key,
        numbers bigint not null,
        examples jsonb not null,
        found_at timestamptz not null
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table drift_days');
  }
}
