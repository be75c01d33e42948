import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'];
const list = MEASURES.join(', ');
const negative = MEASURES.map((name) => `-${name}`).join(', ');
const sums = MEASURES.map((name) => `sum(${name})`).join(', ');
const OPEN = '(date, merchant_id) > (select date, merchant_id from usage_rolled_up)';
const MONTH = `date_trunc('month', date)::date`;
const YEAR = `date_trunc('year', date)::date`;

/**
 * Months and years get a day once, when it is over: the days before `date`, and of `date` the merchants up to
 * `merchant_id`. Later days are open. They are read from the rollups of days.
 */
export class RolledUpDays1763856000100 implements MigrationInterface {
  name = 'RolledUpDays1763856000100';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('lock table usage_events, usage_adjustments in share row exclusive mode');
    await runner.query(`
      create table usage_rolled_up (
        only_row boolean primary key default true check (only_row),
        date date not null,
        merchant_id text not null default ''
      )`);
    // Months and years have every day so far. A process of the release before adds today and tomorrow to them, too.
    await runner.query(`
      insert into usage_rolled_up (date)
      select case when used.day is null then today.day else greatest(today.day + 2, used.day + 1) end
      from (select (now() at time zone 'UTC')::date as day) as today
      cross join (
        select greatest((select max(date) from usage_daily), (select max(last_date) from usage_flushes)) as day
      ) as used`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('lock table usage_events, usage_adjustments, usage_flushes in share row exclusive mode');
    // What is still to be derived stays so: the release before adds it itself.
    await runner.query(`
      create temp table open_days on commit drop as
      select date, merchant_id, user_id, api_key, model, provider, ${list} from usage_daily where ${OPEN}
      union all
      select date, merchant_id, user_id, api_key, model, provider, ${negative} from usage_pending where ${OPEN}`);
    const upserts: [table: string, keys: string, values: string, from: string][] = [
      ['usage_monthly', 'merchant_id, month, user_id, api_key, model, provider', MONTH, 'open_days'],
      ['usage_yearly', 'merchant_id, year, user_id, api_key, model, provider', YEAR, 'open_days'],
      ['usage_monthly_models', 'merchant_id, month, model, provider', MONTH, 'open_days'],
      ['usage_platform_users', 'month, user_id', MONTH, 'open_days'],
      [
        'usage_platform_monthly',
        'month, model, provider',
        MONTH,
        '(select * from usage_platform_daily where date >= (select date from usage_rolled_up)) as platform',
      ],
    ];
    for (const [table, keys, period, from] of upserts) {
      const places = keys.split(', ').map((_, index) => index + 1);
      await runner.query(`
        insert into ${table} as old (${keys}, ${list})
        select ${keys.replace(/month|year/, period)}, ${sums}
        from ${from}
        group by ${places.join(', ')}
        on conflict (${keys}) do update set
          ${MEASURES.map((name) => `${name} = old.${name} + excluded.${name}`).join(', ')}`);
    }
    await runner.query('drop table usage_rolled_up');
  }
}
