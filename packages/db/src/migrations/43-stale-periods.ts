import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Periods whose rollups must be computed again, and how many periods of a run failed. */
export class StalePeriods1763856000043 implements MigrationInterface {
  name = 'StalePeriods1763856000043';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table metrics_stale_periods (
        grain text not null check (grain in ('daily', 'weekly', 'monthly')),
        period_start date not null,
        merchant_id text not null,
        primary key (grain, period_start, merchant_id)
      )`);
    await runner.query(`comment on column metrics_stale_periods.merchant_id is 'empty: all merchants'`);
    await runner.query(`
      alter table metrics_aggregation_jobs_log add column periods_failed integer not null default 0`);
    // The list of errors was cut off at 100, so this is the best that is known of earlier runs.
    await runner.query(`update metrics_aggregation_jobs_log set periods_failed = jsonb_array_length(errors)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table metrics_aggregation_jobs_log drop column periods_failed`);
    await runner.query(`drop table metrics_stale_periods`);
  }
}
