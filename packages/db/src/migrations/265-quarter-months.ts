import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'];

/**
 * Sums by quarter of a month: the 1st to 8th, 9th to 15th, 16th to 22nd, and 23rd to the month's end. They are computed
 * in the background once their days are rolled up: quarters before `quarter_month` are complete, and of that the
 * merchants up to `quarter_merchant`. With usage this begins two days from now: a process of the release before, which
 * may still end its work, does not add to them.
 */
export class QuarterMonths1763856000265 implements MigrationInterface {
  name = 'QuarterMonths1763856000265';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create function usage_quarter_month(day date) returns date language sql immutable parallel safe as $$
        select day - extract(day from day)::int + case
          when extract(day from day) < 9 then 1
          when extract(day from day) < 16 then 9
          when extract(day from day) < 23 then 16
          else 23
        end
      $$`);
    await runner.query(`
      create table usage_quarter_months (
        merchant_id text not null,
        quarter_month date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        ${MEASURES.map((name) => `${name} numeric not null default 0`).join(', ')},
        primary key (merchant_id, quarter_month, user_id, api_key, model, provider)
      ) with (fillfactor = 80)`);
    await runner.query('create index usage_quarter_months_quarter_month on usage_quarter_months (quarter_month)');
    await runner.query(`
      alter table usage_rolled_up
        add column quarter_month date not null default '0001-01-01',
        add column quarter_merchant text not null default '',
        add column quarters_after date not null default '0001-01-01'`);
    await runner.query(`
      update usage_rolled_up
      set
        quarter_month = case when used then quarter_month else usage_quarter_month(date) end,
        quarters_after = case when used then (now() at time zone 'UTC')::date + 2 else quarters_after end
      from (select exists (select from usage_daily) as used) as before`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(
      'alter table usage_rolled_up drop column quarters_after, drop column quarter_merchant, drop column quarter_month',
    );
    await runner.query('drop table usage_quarter_months');
    await runner.query(`delete from usage_rollup_rows where rollup = 'usage_quarter_months'`);
    await runner.query('drop function usage_quarter_month(date)');
  }
}
