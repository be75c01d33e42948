import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Which day an event near a midnight is counted on, and events with the id of another one. */
export class Identity1763856000086 implements MigrationInterface {
  name = 'Identity1763856000086';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_midnight_days (
        midnight date not null,
        merchant_id text not null,
        id text not null,
        date date not null,
        primary key (midnight, merchant_id, id)
      )`);
    await runner.query(
      `comment on table usage_midnight_days is 'the day of the first copy of an event within two hours of a midnight'`,
    );
    // Copies from before arrive soon after a midnight: a producer that stamps a retry anew does so as it sends it.
    await runner.query(`
      insert into usage_midnight_days (midnight, merchant_id, id, date)
      select midnight, merchant_id, id, date
      from usage_events
      cross join lateral (select (time at time zone 'UTC' + interval '2 hours')::date as midnight) as near
      where date >= current_date - 2 and time at time zone 'UTC' - midnight < interval '2 hours'
      order by flush_id
      on conflict do nothing`);
    await runner.query(`
      create table usage_conflicts (
        id bigint generated always as identity primary key,
        merchant_id text not null,
        date date not null,
        entry_id text not null,
        time timestamptz not null,
        digest text not null,
        counted_time timestamptz not null,
        counted_digest text not null,
        line jsonb not null,
        source text not null,
        recorded_at timestamptz not null default clock_timestamp(),
        unique (merchant_id, date, entry_id, digest)
      )`);
    await runner.query(
      `comment on table usage_conflicts is 'events that are not counted: their id stands for another one'`,
    );
    await runner.query(`create index usage_conflicts_date on usage_conflicts (date, id)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table usage_conflicts, usage_midnight_days');
  }
}
