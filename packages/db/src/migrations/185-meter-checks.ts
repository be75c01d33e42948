import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Which version of a merchant's day the reconciliation last found the same in the journal and all rollups of meters. */
export class MeterChecks1763856000185 implements MigrationInterface {
  name = 'MeterChecks1763856000185';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table meter_checks (
        date date not null,
        merchant_id text not null,
        changes bigint not null,
        checked_at timestamptz not null default clock_timestamp(),
        primary key (date, merchant_id)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table meter_checks');
  }
}
