import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Webhooks with their deliveries, alert rules, and what fired: once per rule, period and threshold. */
export class Alerts1763856000132 implements MigrationInterface {
  name = 'Alerts1763856000132';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table webhooks (
        id uuid primary key default gen_random_uuid(),
        url text not null,
        secret text not null,
        previous_secret text,
        previous_until timestamptz,
        events text[] not null,
        created_at timestamptz not null default clock_timestamp(),
        created_by text not null,
        removed_at timestamptz
      )`);
    await runner.query(`
      create table webhook_deliveries (
        id uuid primary key default gen_random_uuid(),
        webhook_id uuid not null references webhooks (id),
        event text not null,
        body text not null,
        status text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
        attempts int not null default 0,
        next_attempt_at timestamptz not null,
        give_up_at timestamptz not null,
        last_status int,
        last_error text,
        created_at timestamptz not null,
        ended_at timestamptz
      )`);
    await runner.query(`
      create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending'`);
    await runner.query('create index webhook_deliveries_newest on webhook_deliveries (created_at desc, id)');
    await runner.query(`
      create table alerts (
        id uuid primary key default gen_random_uuid(),
        name text not null,
        "on" text not null,
        target text not null,
        condition jsonb not null,
        webhook_ids uuid[] not null,
        created_at timestamptz not null default clock_timestamp(),
        created_by text not null,
        removed_at timestamptz
      )`);
    await runner.query(`
      create table alert_firings (
        id bigint generated always as identity primary key,
        rule text not null,
        period_start timestamptz not null,
        threshold text not null,
        event text not null,
        data jsonb not null,
        fired_at timestamptz not null,
        resolved_at timestamptz,
        unique (rule, period_start, threshold)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table alert_firings, alerts, webhook_deliveries, webhooks');
  }
}
