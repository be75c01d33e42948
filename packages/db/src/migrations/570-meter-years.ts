import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Years of meters, folded from trimesters. All begin dirty: queries read their trimesters until the first fold. */
export class MeterYears1763856000570 implements MigrationInterface {
  name = 'MeterYears1763856000570';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table meter_years (
        meter_id int not null,
        merchant_id text collate "C" not null,
        year date not null,
        d1 text collate "C" not null,
        d2 text collate "C" not null,
        d3 text collate "C" not null,
        d4 text collate "C" not null,
        element text collate "C" not null,
        value numeric not null,
        at timestamptz,
        event_id text collate "C",
        primary key (meter_id, merchant_id, year, d1, d2, d3, d4, element)
      )`);
    await runner.query(`
      insert into meter_marks (merchant_id, grain, period)
      select distinct merchant_id, 'year', date_trunc('year', trimester)::date from meter_trimesters`);
    await runner.query('create statistics meter_years_keys (mcv) on meter_id, merchant_id from meter_years');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`delete from meter_marks where grain = 'year'`);
    await runner.query('drop table meter_years');
  }
}
