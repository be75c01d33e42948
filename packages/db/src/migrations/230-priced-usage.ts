import type { MigrationInterface, QueryRunner } from 'typeorm';

const PARTS = [
  'priced_requests',
  'priced_input_tokens',
  'priced_cached_tokens',
  'priced_cache_write_tokens',
  'priced_output_tokens',
  'priced_reasoning_tokens',
];
const AMOUNTS = ['priced_events', ...PARTS, 'priced_cost'];
const columns = (type: string) => AMOUNTS.map((name) => `${name} ${type} not null default 0`).join(', ');
const sums = AMOUNTS.map((name) => `sum(${name})`).join(', ');
const DIMENSIONS = ['user_id', 'api_key', 'model', 'provider'];
const rolled = DIMENSIONS.map((name, bit) => `case when folded & ${1 << bit} <> 0 then '(other)' else ${name} end`);

/**
 * Keeps what Tally priced by merchant, day and all dimensions, by token class, for years, so that days whose events are
 * no longer in the journal can be priced again. A re-rating is an adjustment that knows the size of the calls it is
 * about.
 */
export class PricedUsage1763856000230 implements MigrationInterface {
  name = 'PricedUsage1763856000230';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('lock table usage_events, usage_adjustments in share row exclusive mode');
    // Inlined into the statements that use it. Classes that are more than their sum have no known price: they count as
    // none.
    await runner.query(`
      create function usage_priced_parts(prompt bigint, completion bigint, calls bigint, failed boolean, metrics jsonb)
      returns table (call_size smallint, ${PARTS.map((name) => `${name} bigint`).join(', ')})
      language sql immutable as $$
        select
          (width_bucket(prompt - 1, array[128000, 199999, 200000, 256000, 271999, 272000, 512000]::bigint[])
            * case when calls = 1 then 1 else -1 end)::smallint,
          case when clear and not failed then calls else 0 end,
          case when clear then prompt - cached - written else 0 end,
          case when clear then cached else 0 end,
          case when clear then written else 0 end,
          case when clear then completion - reasoning else 0 end,
          case when clear then reasoning else 0 end
        from (
          select
            coalesce((metrics ->> 'cached_tokens')::bigint, 0) as cached,
            coalesce((metrics ->> 'cache_write_tokens')::bigint, 0) as written,
            coalesce((metrics ->> 'reasoning_tokens')::bigint, 0) as reasoning
        ) as class
        cross join lateral (
          select cached + written <= prompt and reasoning <= completion as clear
        ) as checked
      $$`);
    await runner.query('alter table usage_adjustments add column rerated_size smallint');
    await runner.query(
      `update usage_adjustments set rerated_size = 0 where id like 'rerate:%' and reason like 'Re-rated by version %'`,
    );
    await runner.query(`
      create view usage_priced_events as
      select date, merchant_id, ${rolled.map((text, index) => `${text} as ${DIMENSIONS[index]}`).join(', ')}, call_size,
        1::bigint as priced_events, ${PARTS.join(', ')}, cost as priced_cost
      from usage_events as event
      cross join lateral usage_priced_parts(prompt_tokens, completion_tokens, calls, failed, metrics) as parts
      where price_version is not null and not exists (
        select from usage_adjustments as voided
        where voided.void_of is not null and voided.merchant_id = event.merchant_id and voided.date = event.date
          and voided.void_of = event.id)`);
    await runner.query(`
      create table usage_priced (
        merchant_id text not null,
        date date not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        provider text not null,
        call_size smallint not null,
        ${columns('bigint')},
        reratings int not null default 0,
        primary key (merchant_id, date, user_id, api_key, model, provider, call_size)
      ) with (fillfactor = 80)`);
    await runner.query('create index usage_priced_date on usage_priced (date)');
    await runner.query(`
      create table usage_priced_closings (
        merchant_id text not null,
        date date not null,
        ${columns('bigint')},
        primary key (merchant_id, date)
      )`);
    const keys = `merchant_id, date, ${DIMENSIONS.join(', ')}, call_size`;
    await runner.query(`
      insert into usage_priced (${keys}, ${AMOUNTS.join(', ')}, reratings)
      select ${keys}, ${sums}, sum(reratings)
      from (
        select ${keys}, ${AMOUNTS.join(', ')}, 0 as reratings from usage_priced_events
        union all
        select merchant_id, date, ${rolled.join(', ')}, rerated_size, ${AMOUNTS.map((name) => (name === 'priced_cost' ? 'cost' : '0')).join(', ')}, 1
        from usage_adjustments
        where rerated_size is not null
      ) as counted
      group by 1, 2, 3, 4, 5, 6, 7
      order by 1, 2, 3, 4, 5, 6, 7`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop view usage_priced_events');
    await runner.query('drop table usage_priced_closings, usage_priced');
    await runner.query('alter table usage_adjustments drop column rerated_size');
    await runner.query('drop function usage_priced_parts(bigint, bigint, bigint, boolean, jsonb)');
  }
}
