import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * How many rows a merchant has in a month of `usage_monthly` and in a year of `usage_yearly`; all merchants: under ''.
 * Plans choose between rollups by it. A count that is off makes a query slower, never wrong.
 */
export class RollupRows1763856000094 implements MigrationInterface {
  name = 'RollupRows1763856000094';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_rollup_rows (
        merchant_id text not null,
        rollup text not null,
        period date not null,
        rows bigint not null,
        primary key (merchant_id, rollup, period)
      )`);
    for (const [table, period] of [
      ['usage_monthly', 'month'],
      ['usage_yearly', 'year'],
    ]) {
      await runner.query(`
        insert into usage_rollup_rows (merchant_id, rollup, period, rows)
        select coalesce(merchant_id, ''), '${table}', ${period}, count(*)
        from ${table}
        group by grouping sets ((merchant_id, ${period}), (${period}))`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table usage_rollup_rows');
  }
}
