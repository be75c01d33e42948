import type { MigrationInterface, QueryRunner } from 'typeorm';

const GRAINS = ['daily', 'weekly', 'monthly'];

/** Rollups by period, and the log of the runs that compute them. */
export class Rollups1763856000019 implements MigrationInterface {
  name = 'Rollups1763856000019';

  async up(runner: QueryRunner): Promise<void> {
    for (const grain of GRAINS) {
      // merchant_id '' owns the platform's rows. Sums over many merchants may pass bigint.
      await runner.query(`
        create table ${grain}_metrics (
          merchant_id text not null,
          entity_type text not null check (entity_type in ('merchant', 'user', 'model', 'provider', 'platform')),
          entity_id text not null,
          metric_type text not null,
          period_start date not null,
          period_end date not null,
          value numeric not null,
          daily_average numeric not null,
          previous numeric,
          growth_percent numeric,
          breakdown jsonb,
          computed_at timestamptz not null default now(),
          primary key (period_start, entity_type, merchant_id, entity_id, metric_type)
        )`);
      await runner.query(`
        create index ${grain}_metrics_merchant on ${grain}_metrics (merchant_id, period_start, entity_type, entity_id)`);
      await runner.query(`comment on column ${grain}_metrics.value is 'units; of cost: nano-USD'`);
    }
    await runner.query(`
      create table metrics_aggregation_jobs_log (
        id uuid primary key,
        kind text not null check (kind in ('daily', 'weekly', 'monthly', 'refresh')),
        period_start date not null,
        period_end date not null,
        status text not null check (status in ('RUNNING', 'COMPLETED', 'FAILED', 'PARTIAL')),
        periods_total integer not null,
        periods_done integer not null default 0,
        rows_written bigint not null default 0,
        attempts integer not null default 1,
        errors jsonb not null default '[]',
        started_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz
      )`);
    await runner.query(`
      create index metrics_aggregation_jobs_log_started on metrics_aggregation_jobs_log (started_at desc, id desc)`);
    await runner.query(`
      create index metrics_aggregation_jobs_log_running on metrics_aggregation_jobs_log (started_at)
      where status = 'RUNNING'`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table daily_metrics, weekly_metrics, monthly_metrics, metrics_aggregation_jobs_log`);
  }
}
