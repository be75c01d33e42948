import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLE = 'tally_reader';

/** Amounts as the author of a formula writes them: exact decimals, cost in USD. */
const AMOUNTS = `
      requests::numeric as requests,
      failed_requests::numeric as failed_requests,
      prompt_tokens::numeric as prompt_tokens,
      completion_tokens::numeric as completion_tokens,
      (prompt_tokens + completion_tokens)::numeric as total_tokens,
      cost * 0.000000001 as cost`;

const DIMENSIONS = `
      merchant_id,
      nullif(user_id, '') as user_id,
      nullif(api_key, '') as api_key,
      nullif(model, '') as model,
      nullif(provider, '') as provider`;

/** '*' is the platform: all merchants. Without the setting nothing is seen. */
const OWN = `merchant_id = current_setting('tally.merchant_id', true) or current_setting('tally.merchant_id', true) = '*'`;

const rollupView = (grain: string) => `
    create view tally_sources.${grain}_metrics with (security_barrier) as
    select
      period_start as date, nullif(merchant_id, '') as merchant_id, entity_type, entity_id, metric_type,
      period_start, period_end,
      case metric_type when 'cost' then value * 0.000000001 else value end as value,
      case metric_type when 'cost' then daily_average * 0.000000001 else daily_average end as daily_average,
      case metric_type when 'cost' then previous * 0.000000001 else previous end as previous,
      growth_percent
    from ${grain}_metrics
    where ${OWN}`;

/** What formulas read, the role that reads it, and the definitions with their versions, values and audit trail. */
export class CustomMetrics1763856000020 implements MigrationInterface {
  name = 'CustomMetrics1763856000020';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`create schema tally_sources`);
    await runner.query(`
    create view tally_sources.events with (security_barrier) as
    select
      time, date, ${DIMENSIONS}, case when failed then 'failure' else 'success' end as status, ${AMOUNTS},
      metrics, properties
    from usage_events
    where ${OWN}`);
    await runner.query(`
    create view tally_sources.usage with (security_barrier) as
    select date, ${DIMENSIONS}, ${AMOUNTS}
    from usage_daily
    where ${OWN}`);
    for (const grain of ['daily', 'weekly', 'monthly']) await runner.query(rollupView(grain));
    // The server's own percentile_cont takes doubles; this one interpolates exactly.
    await runner.query(`
      create function tally_sources.percentile_cont(sorted numeric[], fraction numeric) returns numeric
      language sql immutable strict parallel safe as $$
        select sorted[low] + (sorted[least(low + 1, size)] - sorted[low]) * (place - floor(place))
        from (
          select cardinality(sorted) as size, fraction * (cardinality(sorted) - 1) as place,
            floor(fraction * (cardinality(sorted) - 1))::int + 1 as low
        ) as position
        where size > 0
      $$`);
    // A server where roles may not be made works without: the views and the check of the formula stay.
    await runner.query(`
      do $$
      begin
        if not exists (select from pg_roles where rolname = '${ROLE}') then
          create role ${ROLE} nologin;
        end if;
      exception
        when insufficient_privilege then raise notice 'the role ${ROLE} could not be made';
        when duplicate_object or unique_violation then null;
      end $$`);
    await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant usage on schema tally_sources to ${ROLE};
          grant select on all tables in schema tally_sources to ${ROLE};
          grant execute on function tally_sources.percentile_cont(numeric[], numeric) to ${ROLE};
        end if;
      end $$`);
    // Granted to whoever made it too: from Postgres 16 on its maker may hand it out, but not take it.
    await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant ${ROLE} to current_user;
        end if;
      exception
        when insufficient_privilege then raise notice 'the role ${ROLE} could not be granted';
        when unique_violation then null;
      end $$`);

    await runner.query(`
      create table custom_metric_definitions (
        id uuid primary key default gen_random_uuid(),
        merchant_id text not null,
        owner_id text not null,
        team_id text,
        visibility text not null check (visibility in ('PRIVATE', 'TEAM', 'ORGANIZATION', 'PUBLIC')),
        name text not null,
        version integer not null,
        uses bigint not null default 0,
        last_used_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        removed_at timestamptz
      )`);
    await runner.query(`create index custom_metric_definitions_merchant on custom_metric_definitions (merchant_id)`);
    await runner.query(`
      create table custom_metric_versions (
        definition_id uuid not null references custom_metric_definitions on delete cascade,
        version integer not null,
        definition jsonb not null,
        created_by text not null,
        created_at timestamptz not null default now(),
        primary key (definition_id, version)
      )`);
    await runner.query(`
      create table custom_metric_values (
        definition_id uuid not null references custom_metric_definitions on delete cascade,
        version integer not null,
        merchant_id text not null,
        period_type text not null check (period_type in ('DAILY', 'WEEKLY', 'MONTHLY', 'CUSTOM')),
        period_start date not null,
        period_end date not null,
        value numeric,
        rows jsonb not null,
        cost text not null check (cost in ('low', 'medium', 'high')),
        duration_ms double precision not null,
        calculated_by text not null,
        calculated_at timestamptz not null default now(),
        primary key (definition_id, version, merchant_id, period_start, period_end)
      )`);
    await runner.query(`comment on column custom_metric_values.merchant_id is 'what it was computed over; * for all'`);
    await runner.query(`
      create table custom_metric_audit (
        id bigint generated always as identity primary key,
        at timestamptz not null default clock_timestamp(),
        definition_id uuid,
        version integer,
        action text not null,
        caller_id text not null,
        caller_merchant_id text,
        outcome text not null,
        details jsonb not null
      )`);
    await runner.query(`create index custom_metric_audit_definition on custom_metric_audit (definition_id, id desc)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    // The role stays: roles belong to the server, and another database of it may use this one.
    await runner.query(
      `drop table custom_metric_audit, custom_metric_values, custom_metric_versions, custom_metric_definitions`,
    );
    await runner.query(`drop schema tally_sources cascade`);
  }
}
