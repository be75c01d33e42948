import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Which merchants' days changed, in order of transactions: one row for each transaction that counts, so that it costs a
 * flush one row however many merchants it has.
 */
export class ChangeLog1763856000105 implements MigrationInterface {
  name = 'ChangeLog1763856000105';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_change_log (
        xact xid8 not null default pg_current_xact_id(),
        id bigint generated always as identity,
        at timestamptz not null default clock_timestamp(),
        merchant_ids text[] not null,
        dates date[] not null,
        primary key (xact, id)
      )`);
    await runner.query(
      `comment on table usage_change_log is 'its first row is the newest that was pruned: older cursors start over'`,
    );
    await runner.query(`insert into usage_change_log (merchant_ids, dates) values ('{}', '{}')`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table usage_change_log');
  }
}
