import type { MigrationInterface, QueryRunner } from 'typeorm';

const TABLES = ['meter_quarters', 'meter_days', 'meter_months', 'meter_trimesters'];

/**
 * Trimesters of meters, folded from months. All begin dirty: queries read their months until the first fold. Statistics
 * of meters and merchants together let Postgres estimate how many rows a query reads.
 */
export class MeterTrimesters1763856000270 implements MigrationInterface {
  name = 'MeterTrimesters1763856000270';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table meter_trimesters (
        meter_id int not null,
        merchant_id text collate "C" not null,
        trimester date not null,
        d1 text collate "C" not null,
        d2 text collate "C" not null,
        d3 text collate "C" not null,
        d4 text collate "C" not null,
        element text collate "C" not null,
        value numeric not null,
        at timestamptz,
        event_id text collate "C",
        primary key (meter_id, merchant_id, trimester, d1, d2, d3, d4, element)
      )`);
    await runner.query(`
      insert into meter_marks (merchant_id, grain, period)
      select distinct merchant_id, 'trimester', date_trunc('quarter', month)::date from meter_months`);
    for (const table of TABLES)
      await runner.query(`create statistics ${table}_keys (mcv) on meter_id, merchant_id from ${table}`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`delete from meter_marks where grain = 'trimester'`);
    await runner.query('drop table meter_trimesters');
    for (const table of TABLES) await runner.query(`drop statistics if exists ${table}_keys`);
  }
}
