import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * How often the sums of a merchant's day and month changed: an answer kept under the count it was read at can never be
 * given after a change. And the directory that labels come from.
 */
export class ChangesAndDirectory1763856000010 implements MigrationInterface {
  name = 'ChangesAndDirectory1763856000010';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_changes (
        grain text not null check (grain in ('all', 'day', 'month')),
        period date not null,
        merchant_id text not null,
        changes bigint not null default 1,
        primary key (grain, period, merchant_id)
      )`);
    // In the transaction that counts: the mark of a touched day is the one thing every way of counting writes.
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
    for (const event of ['insert', 'update']) {
      await runner.query(`
        create trigger usage_touched_days_${event} after ${event} on usage_touched_days
        referencing new table as touched for each statement execute function count_usage_changes()`);
    }
    await runner.query(`
      create table directory_entries (
        kind text not null check (kind in ('user', 'apiKey', 'merchant')),
        id text not null,
        merchant_id text not null,
        name text not null,
        email text,
        role text,
        updated_at timestamptz not null default now(),
        primary key (kind, id, merchant_id)
      )`);
    await runner.query(`comment on column directory_entries.merchant_id is 'empty: for every merchant'`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table directory_entries`);
    await runner.query(`drop trigger usage_touched_days_insert on usage_touched_days`);
    await runner.query(`drop trigger usage_touched_days_update on usage_touched_days`);
    await runner.query(`drop function count_usage_changes()`);
    await runner.query(`drop table usage_changes`);
  }
}
