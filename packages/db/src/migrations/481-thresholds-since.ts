import type { MigrationInterface, QueryRunner } from 'typeorm';

/** When the thresholds of a budget were set, so that none fires for a period that was over before. */
export class ThresholdsSince1763856000481 implements MigrationInterface {
  name = 'ThresholdsSince1763856000481';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table budgets add thresholds_since timestamptz not null default clock_timestamp()`);
    await runner.query('update budgets set thresholds_since = created_at');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table budgets drop thresholds_since');
  }
}
