import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = `
    requests bigint not null default 0,
    failed_requests bigint not null default 0,
    prompt_tokens bigint not null default 0,
    completion_tokens bigint not null default 0,
    cost bigint not null default 0`;

/** The journal, what is summed from it in the transaction that counts, and the record of those transactions. */
export class JournalAndCubes1763856000000 implements MigrationInterface {
  name = 'JournalAndCubes1763856000000';

  async up(runner: QueryRunner): Promise<void> {
    // '' stands for "none" everywhere: NULL in a unique key would make duplicate rows.
    await runner.query(`
      create table usage_events (
        date date not null,
        merchant_id text not null,
        id text not null,
        time timestamptz not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        failed boolean not null,
        calls bigint not null,
        ${MEASURES},
        metrics jsonb,
        properties jsonb,
        flush_id bigint not null,
        primary key (date, merchant_id, id)
      ) partition by range (date)`);
    await runner.query(`create index usage_events_recent on usage_events (merchant_id, time desc)`);
    await runner.query(`
      create table usage_daily (
        merchant_id text not null,
        date date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        ${MEASURES},
        primary key (merchant_id, date, user_id, api_key, model, provider)
      )`);
    await runner.query(`create index usage_daily_date on usage_daily (date)`);
    await runner.query(`
      create table usage_monthly (
        merchant_id text not null,
        month date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        ${MEASURES},
        primary key (merchant_id, month, user_id, api_key, model, provider)
      )`);
    await runner.query(`create index usage_monthly_month on usage_monthly (month)`);
    await runner.query(`
      create table usage_daily_models (
        merchant_id text not null,
        date date not null,
        model text not null,
        provider text not null,
        ${MEASURES},
        primary key (merchant_id, date, model, provider)
      )`);
    await runner.query(`create index usage_daily_models_date on usage_daily_models (date)`);
    await runner.query(`
      create table usage_quarter_hours (
        merchant_id text not null,
        bucket timestamptz not null,
        model text not null,
        provider text not null,
        ${MEASURES},
        primary key (merchant_id, bucket, model, provider)
      )`);
    await runner.query(`create index usage_quarter_hours_bucket on usage_quarter_hours (bucket)`);
    await runner.query(`
      create table merchant_usage (
        merchant_id text not null,
        date date not null,
        metric_type text not null,
        metric_value bigint not null,
        primary key (merchant_id, date, metric_type)
      )`);
    await runner.query(`comment on column merchant_usage.metric_value is 'units; of cost: nano-USD'`);
    await runner.query(`create index merchant_usage_date on merchant_usage (date)`);
    await runner.query(`
      create table usage_flushes (
        id bigint generated always as identity primary key,
        source text not null check (source in ('stream', 'direct', 'backfill')),
        started_at timestamptz not null default clock_timestamp(),
        entries bigint not null,
        inserted bigint not null,
        merchants bigint not null,
        first_date date,
        last_date date
      )`);
    await runner.query(`create index usage_flushes_started_at on usage_flushes (started_at desc)`);
    // Marks for whoever derives from days: taken away in the transaction that derives again.
    await runner.query(`
      create table usage_touched_days (
        merchant_id text not null,
        date date not null,
        touched_at timestamptz not null default clock_timestamp(),
        primary key (merchant_id, date)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table usage_touched_days, usage_flushes, merchant_usage, usage_quarter_hours, usage_daily_models,
      usage_monthly, usage_daily, usage_events cascade`);
  }
}
