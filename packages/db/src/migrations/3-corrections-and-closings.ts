import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What the journal needs beside its rows: corrections, refused entries, closed days, totals to be set right. */
export class CorrectionsAndClosings1763856000002 implements MigrationInterface {
  name = 'CorrectionsAndClosings1763856000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_adjustments (
        merchant_id text not null,
        id text not null,
        date date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        requests bigint not null default 0,
        failed_requests bigint not null default 0,
        prompt_tokens bigint not null default 0,
        completion_tokens bigint not null default 0,
        cost bigint not null default 0,
        metrics jsonb,
        reason text not null,
        actor text not null,
        created_at timestamptz not null default clock_timestamp(),
        primary key (merchant_id, id)
      )`);
    await runner.query(`create index usage_adjustments_date on usage_adjustments (merchant_id, date)`);
    await runner.query(`
      create table usage_dead_letters (
        id bigint generated always as identity primary key,
        merchant_id text not null,
        date date not null,
        entry_id text not null,
        line jsonb not null,
        code text not null,
        message text not null,
        created_at timestamptz not null default clock_timestamp(),
        attempts integer not null default 1,
        resolved_at timestamptz,
        unique (merchant_id, date, entry_id)
      )`);
    await runner.query(`
      create table usage_closed_days (
        date date primary key,
        closed_at timestamptz not null default clock_timestamp(),
        entries bigint not null
      )`);
    await runner.query(`
      create table usage_journal_closings (
        merchant_id text not null,
        date date not null,
        metric_type text not null,
        metric_value bigint not null,
        entries bigint not null,
        primary key (merchant_id, date, metric_type)
      )`);
    await runner.query(`
      create table usage_stale_totals (
        merchant_id text not null,
        date date not null,
        marked_at timestamptz not null default clock_timestamp(),
        primary key (merchant_id, date)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table usage_stale_totals, usage_journal_closings, usage_closed_days, usage_dead_letters,
      usage_adjustments`);
  }
}
