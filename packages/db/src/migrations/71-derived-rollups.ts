import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'];
const columns = (type: string) => MEASURES.map((name) => `${name} ${type} not null default 0`).join(', ');
const list = MEASURES.join(', ');
const sums = MEASURES.map((name) => `sum(${name})`).join(', ');
const typed = (type: string) => MEASURES.map((name) => `alter column ${name} type ${type}`).join(', ');

const DERIVED = ['usage_daily_models', 'usage_monthly', 'usage_yearly'];
const TOUCHED_TRIGGERS = ['insert', 'update'];

/** Whether a day has usage of its own: asked of a table that the counting transaction writes itself. */
const importedDays = (table: string) => `
  create or replace view usage_imported_days as
  select
    date, cache_status, aggregated_by_user, aggregated_by_model, aggregated_by_provider,
    (select true from ${table} as counted where counted.date = document.date limit 1) is true as counted
  from daily_usage_cache as document
  where changes is null`;

/**
 * Coarse rollups are derived from flushes in the background: a flush without `derived_at` is still to be added to them,
 * and whoever reads them reads its events too (`usage_pending`). All flushes so far were added when they were counted.
 * Their sums are numeric: those of months, years and all merchants can pass a bigint, which must stop no derivation.
 */
export class DerivedRollups1763856000071 implements MigrationInterface {
  name = 'DerivedRollups1763856000071';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('lock table usage_events, usage_adjustments in share row exclusive mode');
    await runner.query('alter table usage_flushes add column derived_at timestamptz default now()');
    // The default stays: a process of the release before, which may still end its work, adds to these rollups itself.
    await runner.query('create index usage_flushes_pending on usage_flushes (id) where derived_at is null');
    await runner.query('create index usage_events_flush on usage_events (flush_id, merchant_id)');
    await runner.query(`
      create view usage_pending as
      select event.*
      from usage_flushes as flush
      join usage_events as event on event.flush_id = flush.id and event.date between flush.first_date and flush.last_date
      where flush.derived_at is null`);
    for (const table of DERIVED) await runner.query(`alter table ${table} ${typed('numeric')}`);
    await runner.query(`
      create table usage_monthly_models (
        merchant_id text not null,
        month date not null,
        model text not null,
        provider text not null,
        ${columns('numeric')},
        primary key (merchant_id, month, model, provider)
      )`);
    await runner.query(`
      insert into usage_monthly_models
      select merchant_id, date_trunc('month', date)::date, model, provider, ${sums}
      from usage_daily_models
      group by 1, 2, 3, 4
      order by 1, 2, 3, 4`);
    await runner.query('create index usage_monthly_models_month on usage_monthly_models (month)');
    await runner.query(`
      create table usage_platform_daily (
        date date not null,
        model text not null,
        provider text not null,
        ${columns('numeric')},
        primary key (date, model, provider)
      )`);
    await runner.query(`
      insert into usage_platform_daily
      select date, model, provider, ${sums} from usage_daily_models group by 1, 2, 3 order by 1, 2, 3`);
    await runner.query(`
      create table usage_platform_monthly (
        month date not null,
        model text not null,
        provider text not null,
        ${columns('numeric')},
        primary key (month, model, provider)
      )`);
    await runner.query(`
      insert into usage_platform_monthly
      select month, model, provider, ${sums} from usage_monthly_models group by 1, 2, 3 order by 1, 2, 3`);
    await runner.query(`
      create table usage_platform_users (
        month date not null,
        user_id text not null,
        ${columns('numeric')},
        primary key (month, user_id)
      )`);
    await runner.query(`
      insert into usage_platform_users
      select month, user_id, ${sums} from usage_monthly group by 1, 2 order by 1, 2`);
    await runner.query(importedDays('usage_daily'));
    // The statements that count write these versions themselves: transition tables do not exist for distributed tables.
    for (const event of TOUCHED_TRIGGERS)
      await runner.query(`drop trigger usage_touched_days_${event} on usage_touched_days`);
    await runner.query('drop function count_usage_changes()');
  }

  async down(runner: QueryRunner): Promise<void> {
    // What is still to be derived is added now: the release before adds nothing later.
    await runner.query('lock table usage_events, usage_adjustments in share row exclusive mode');
    const upserts: [table: string, period: string, column: string, dimensions: string][] = [
      ['usage_daily_models', 'date', 'date', 'model, provider'],
      ['usage_monthly', 'month', `date_trunc('month', date)::date`, 'user_id, api_key, model, provider'],
      ['usage_yearly', 'year', `date_trunc('year', date)::date`, 'user_id, api_key, model, provider'],
    ];
    for (const [table, period, column, dimensions] of upserts) {
      await runner.query(`
        insert into ${table} as old (merchant_id, ${period}, ${dimensions}, ${list})
        select merchant_id, ${column}, ${dimensions}, ${sums}
        from usage_pending
        group by merchant_id, ${column}, ${dimensions}
        on conflict (merchant_id, ${period}, ${dimensions}) do update set
          ${MEASURES.map((name) => `${name} = old.${name} + excluded.${name}`).join(', ')}`);
    }
    await runner.query(`
      create function count_usage_changes() returns trigger language plpgsql as $$
      begin
        insert into usage_changes as known (grain, period, merchant_id)
        select grain, period, merchant_id
        from (
          select 'day' as grain, date as period, merchant_id from touched
          union
          select 'month', date_trunc('month', date)::date, merchant_id from touched
        ) as changed
        order by 1, 2, 3
        on conflict (grain, period, merchant_id) do update set changes = known.changes + 1;
        return null;
      end $$`);
    for (const event of TOUCHED_TRIGGERS) {
      await runner.query(`
        create trigger usage_touched_days_${event} after ${event} on usage_touched_days
        referencing new table as touched for each statement execute function count_usage_changes()`);
    }
    await runner.query(importedDays('usage_daily_models'));
    await runner.query(
      'drop table usage_platform_users, usage_platform_monthly, usage_platform_daily, usage_monthly_models',
    );
    for (const table of DERIVED) await runner.query(`alter table ${table} ${typed('bigint')}`);
    await runner.query('drop view usage_pending');
    await runner.query('drop index usage_events_flush');
    await runner.query('drop index usage_flushes_pending');
    await runner.query('alter table usage_flushes drop column derived_at');
  }
}
