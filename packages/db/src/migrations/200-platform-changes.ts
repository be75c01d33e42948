import type { MigrationInterface, QueryRunner } from 'typeorm';

const EVENTS = ['insert', 'update'];

/**
 * Adds how often the sums of all merchants changed, by day and month, so that the version of a query over all merchants
 * reads a few rows however many merchants there are. Connections write to 16 slots, so they seldom wait for each other.
 */
export class PlatformChanges1763856000200 implements MigrationInterface {
  name = 'PlatformChanges1763856000200';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_platform_changes (
        grain text not null check (grain in ('all', 'day', 'month')),
        period date not null,
        slot smallint not null,
        changes bigint not null default 1,
        primary key (grain, period, slot)
      ) with (fillfactor = 50)`);
    // A trigger and not the statements that count: processes of the release before count too while releases change.
    await runner.query(`
      create function count_platform_changes() returns trigger language plpgsql as $$
      begin
        insert into usage_platform_changes as known (grain, period, slot)
        select distinct grain, period, pg_backend_pid() % 16
        from changed
        order by 1, 2
        on conflict (grain, period, slot) do update set changes = known.changes + 1;
        return null;
      end $$`);
    for (const event of EVENTS)
      await runner.query(`
        create trigger usage_changes_${event} after ${event} on usage_changes
        referencing new table as changed for each statement execute function count_platform_changes()`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const event of EVENTS) await runner.query(`drop trigger usage_changes_${event} on usage_changes`);
    await runner.query('drop function count_platform_changes()');
    await runner.query('drop table usage_platform_changes');
  }
}
