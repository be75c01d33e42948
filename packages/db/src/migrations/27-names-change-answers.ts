import type { MigrationInterface, QueryRunner } from 'typeorm';

const EVENTS = { insert: 'new', update: 'new', delete: 'old' };

/** Answers are kept with the names in them, so a new name is a change of what its merchant is answered. */
export class NamesChangeAnswers1763856000027 implements MigrationInterface {
  name = 'NamesChangeAnswers1763856000027';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create function count_directory_changes() returns trigger language plpgsql as $$
      begin
        insert into usage_changes as known (grain, period, merchant_id)
        select distinct 'all', '2000-01-01'::date, merchant_id
        from touched
        order by 3
        on conflict (grain, period, merchant_id) do update set changes = known.changes + 1;
        return null;
      end $$`);
    for (const [event, rows] of Object.entries(EVENTS)) {
      await runner.query(`
        create trigger directory_entries_${event} after ${event} on directory_entries
        referencing ${rows} table as touched for each statement execute function count_directory_changes()`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const event of Object.keys(EVENTS))
      await runner.query(`drop trigger directory_entries_${event} on directory_entries`);
    await runner.query(`drop function count_directory_changes()`);
  }
}
