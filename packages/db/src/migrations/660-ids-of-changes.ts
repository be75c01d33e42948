import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Gives rows of the log of changes random ids. A server restored from a copy gives transactions and sequences the same
 * numbers again, so that a place could name another row.
 */
export class IdsOfChanges1763856000660 implements MigrationInterface {
  name = 'IdsOfChanges1763856000660';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('alter table usage_change_log alter column id drop identity');
    await runner.query(
      'alter table usage_change_log alter column id set default floor(random() * 1000000000000000)::bigint',
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table usage_change_log alter column id drop default');
    await runner.query('alter table usage_change_log alter column id add generated always as identity');
    await runner.query(`
      select setval(pg_get_serial_sequence('usage_change_log', 'id'), (select max(id) + 1 from usage_change_log))`);
  }
}
