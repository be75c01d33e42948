import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Which version of a merchant's day the reconciliation last found the same in all stored forms. */
export class Checks1763856000090 implements MigrationInterface {
  name = 'Checks1763856000090';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_checks (
        date date not null,
        merchant_id text not null,
        changes bigint not null,
        checked_at timestamptz not null default clock_timestamp(),
        primary key (date, merchant_id)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table usage_checks');
  }
}
