import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLLUPS = [
  ['meter_quarters', 'bucket', 'timestamptz'],
  ['meter_days', 'date', 'date'],
  ['meter_months', 'month', 'date'],
];

/**
 * Meters: their registry, and their rollups. Quarter hours are derived from flushes (`usage_flushes.metered` has the run of
 * the derivation); days and months are folded from them while `meter_marks` says that they are dirty.
 */
export class Meters1763856000120 implements MigrationInterface {
  name = 'Meters1763856000120';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table meters (
        id serial primary key,
        key text not null,
        merchant_id text not null default '',
        name text not null,
        unit text,
        scale smallint not null,
        aggregation text not null,
        metric_type text,
        value_property text,
        event_type text,
        filters jsonb not null,
        dimensions text[] not null,
        version int not null default 1,
        created_at timestamptz not null default now(),
        created_by text not null,
        updated_at timestamptz not null default now(),
        created_run bigint not null,
        history_from date,
        removed_at timestamptz,
        purged boolean not null default false
      )`);
    await runner.query(`create unique index meters_key on meters (merchant_id, key) where removed_at is null`);
    await runner.query(`
      create table meter_versions (
        meter_id int not null references meters (id),
        version int not null,
        name text not null,
        unit text,
        created_at timestamptz not null default now(),
        created_by text not null,
        primary key (meter_id, version)
      )`);
    await runner.query(`
      create table meter_state (
        single boolean primary key default true check (single),
        version bigint not null default 1,
        run bigint not null default 1,
        quarters_from date not null default '0001-01-01'
      )`);
    await runner.query('insert into meter_state default values');
    await runner.query(`
      create table meter_history (
        meter_id int not null references meters (id),
        date date not null,
        after_merchant text not null default '',
        done boolean not null default false,
        primary key (meter_id, date)
      )`);
    // Keys compare bytes: an order of a language would cost several times as much.
    for (const [table, period, type] of ROLLUPS) {
      await runner.query(`
        create table ${table} (
          meter_id int not null,
          merchant_id text collate "C" not null,
          ${period} ${type} not null,
          d1 text collate "C" not null,
          d2 text collate "C" not null,
          d3 text collate "C" not null,
          d4 text collate "C" not null,
          element text collate "C" not null,
          value numeric not null,
          at timestamptz,
          event_id text collate "C",
          primary key (meter_id, merchant_id, ${period}, d1, d2, d3, d4, element)
        )`);
    }
    await runner.query('create index meter_quarters_bucket on meter_quarters using brin (bucket)');
    await runner.query(`
      create table meter_marks (
        merchant_id text collate "C" not null,
        grain text not null,
        period date not null,
        marked_at timestamptz not null default clock_timestamp(),
        primary key (merchant_id, grain, period)
      )`);
    await runner.query('create index meter_marks_period on meter_marks (grain, period)');
    await runner.query(`
      create table meter_values (
        merchant_id text collate "C" not null,
        date date not null,
        dimension text collate "C" not null,
        value text collate "C" not null,
        primary key (merchant_id, date, dimension, value)
      )`);
    await runner.query('create index meter_values_date on meter_values using brin (date)');
    await runner.query(`
      create table meter_overflows (
        merchant_id text collate "C" not null,
        date date not null,
        dimension text collate "C" not null,
        primary key (merchant_id, date, dimension)
      )`);
    // What was counted before there were meters is part of their history.
    await runner.query('alter table usage_flushes add column metered bigint default 0');
    await runner.query('alter table usage_flushes alter column metered drop default');
    await runner.query('create index usage_flushes_unmetered on usage_flushes (id) where metered is null');
    await runner.query('alter table usage_adjustments add column metered bigint default 0');
    await runner.query('alter table usage_adjustments alter column metered drop default');
    await runner.query('alter table usage_adjustments add column void_of text');
    await runner.query(
      `update usage_adjustments set void_of = substr(id, 17) where id ~ '^void:\\d{4}-\\d\\d-\\d\\d:'`,
    );
    await runner.query(`
      create index usage_adjustments_voids on usage_adjustments (merchant_id, date, void_of) where void_of is not null`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index usage_adjustments_voids');
    await runner.query('alter table usage_adjustments drop column void_of, drop column metered');
    await runner.query('drop index usage_flushes_unmetered');
    await runner.query('alter table usage_flushes drop column metered');
    await runner.query(
      'drop table meter_overflows, meter_values, meter_marks, meter_months, meter_days, meter_quarters',
    );
    await runner.query('drop table meter_history, meter_state, meter_versions, meters');
  }
}
