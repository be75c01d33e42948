import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLE = 'tally_reader';

const AMOUNTS = `
      requests::numeric as requests,
      failed_requests::numeric as failed_requests,
      prompt_tokens::numeric as prompt_tokens,
      completion_tokens::numeric as completion_tokens,
      (prompt_tokens + completion_tokens)::numeric as total_tokens,
      cost * 0.000000001 as cost`;

/** Amounts as they are kept, whole: adding these costs a fraction of adding numerics. */
const UNITS = `
      requests as requests_units,
      failed_requests as failed_requests_units,
      prompt_tokens as prompt_tokens_units,
      completion_tokens as completion_tokens_units,
      prompt_tokens + completion_tokens as total_tokens_units,
      cost as cost_units`;

const DIMENSIONS = `
      merchant_id,
      nullif(user_id, '') as user_id,
      nullif(api_key, '') as api_key,
      nullif(model, '') as model,
      nullif(provider, '') as provider`;

const SETTING = `current_setting('tally.merchant_id', true)`;
const ownOf = (setting: string) => `merchant_id = ${setting} or ${setting} = '*'`;
/** A subquery is asked once a statement, a function once a row. */
const ONCE = ownOf(`(select ${SETTING})`);
const EACH_ROW = ownOf(SETTING);

const sources = (own: string, units: string): string[] => [
  `create view tally_sources.events with (security_barrier) as
    select
      time, date, ${DIMENSIONS}, case when failed then 'failure' else 'success' end as status, ${AMOUNTS},
      metrics, properties${units}
    from usage_events
    where ${own}`,
  `create view tally_sources.usage with (security_barrier) as
    select date, ${DIMENSIONS}, ${AMOUNTS}${units}
    from usage_daily
    where ${own}`,
  ...['daily', 'weekly', 'monthly'].map(
    (grain) => `create view tally_sources.${grain}_metrics with (security_barrier) as
    select
      period_start as date, nullif(merchant_id, '') as merchant_id, entity_type, entity_id, metric_type,
      period_start, period_end,
      case metric_type when 'cost' then value * 0.000000001 else value end as value,
      case metric_type when 'cost' then daily_average * 0.000000001 else daily_average end as daily_average,
      case metric_type when 'cost' then previous * 0.000000001 else previous end as previous,
      growth_percent
    from ${grain}_metrics
    where ${own}`,
  ),
];

async function replaceSources(runner: QueryRunner, own: string, units: string): Promise<void> {
  for (const name of ['events', 'usage', 'daily_metrics', 'weekly_metrics', 'monthly_metrics'])
    await runner.query(`drop view tally_sources.${name}`);
  for (const view of sources(own, units)) await runner.query(view);
  await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant select on all tables in schema tally_sources to ${ROLE};
          grant execute on all functions in schema tally_sources to ${ROLE};
        end if;
      end $$`);
}

/** Sums of custom metrics over whole units, and the merchant that may be seen looked up once a statement. */
export class RawAmounts1763856000024 implements MigrationInterface {
  name = 'RawAmounts1763856000024';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create function tally_sources.percentile_cont(sorted bigint[], fraction numeric) returns numeric
      language sql immutable strict parallel safe as $$
        select sorted[low] + (sorted[least(low + 1, size)]::numeric - sorted[low]) * (place - floor(place))
        from (
          select cardinality(sorted) as size, fraction * (cardinality(sorted) - 1) as place,
            floor(fraction * (cardinality(sorted) - 1))::int + 1 as low
        ) as position
        where size > 0
      $$`);
    await replaceSources(runner, ONCE, `, ${UNITS}`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await replaceSources(runner, EACH_ROW, '');
    await runner.query(`drop function tally_sources.percentile_cont(bigint[], numeric)`);
  }
}
