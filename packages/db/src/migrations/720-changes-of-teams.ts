import type { MigrationInterface, QueryRunner } from 'typeorm';

const CHANGED: Readonly<Record<string, [tables: string, query: string]>> = {
  insert: ['new table as after', `select from after where team is not null and kind in ('user', 'apiKey')`],
  update: [
    'old table as before new table as after',
    `select from after left join before using (kind, id, merchant_id)
      where after.team is distinct from before.team and kind in ('user', 'apiKey')`,
  ],
  delete: ['old table as before', `select from before where team is not null and kind in ('user', 'apiKey')`],
};

/**
 * Counts changes of who is in a team, as a part of the version of the list of budgets. Before, every change of a name
 * made all processes load all budgets of teams again, and the version was a sum over all merchants, once a second.
 */
export class ChangesOfTeams1763856000720 implements MigrationInterface {
  name = 'ChangesOfTeams1763856000720';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('alter table budget_list add members bigint not null default 0');
    // Begins with the number that services of the previous release go on to compute.
    await runner.query(
      `update budget_list set members = (select coalesce(sum(changes), 0) from usage_changes where grain = 'all')`,
    );
    for (const [event, [tables, query]] of Object.entries(CHANGED)) {
      await runner.query(`
        create function count_team_changes_${event}() returns trigger language plpgsql as $$
        begin
          if exists (${query}) then
            update budget_list set members = members + 1;
          end if;
          return null;
        end $$`);
      await runner.query(`
        create trigger directory_teams_${event} after ${event} on directory_entries
        referencing ${tables} for each statement execute function count_team_changes_${event}()`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const event of Object.keys(CHANGED)) {
      await runner.query(`drop trigger directory_teams_${event} on directory_entries`);
      await runner.query(`drop function count_team_changes_${event}()`);
    }
    await runner.query('alter table budget_list drop members');
  }
}
