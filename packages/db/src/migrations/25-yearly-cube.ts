import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Sums by year of the same dimensions as the months: a range of years reads a row for each year. */
export class YearlyCube1763856000025 implements MigrationInterface {
  name = 'YearlyCube1763856000025';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_yearly (
        merchant_id text not null,
        year date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        requests bigint not null default 0,
        failed_requests bigint not null default 0,
        prompt_tokens bigint not null default 0,
        completion_tokens bigint not null default 0,
        cost bigint not null default 0,
        primary key (merchant_id, year, user_id, api_key, model, provider)
      )`);
    // What is counted while months are read would be missing: nothing is.
    await runner.query('lock table usage_monthly in share mode');
    await runner.query(`
      insert into usage_yearly
      select
        merchant_id, date_trunc('year', month)::date, user_id, api_key, model, provider,
        sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
      from usage_monthly
      group by 1, 2, 3, 4, 5, 6
      order by 1, 2, 3, 4, 5, 6`);
    await runner.query(`create index usage_yearly_year on usage_yearly (year)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table usage_yearly`);
  }
}
