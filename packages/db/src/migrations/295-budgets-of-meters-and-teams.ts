import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Budgets on meters, whose definition they keep, and budgets of teams. */
export class BudgetsOfMetersAndTeams1763856000295 implements MigrationInterface {
  name = 'BudgetsOfMetersAndTeams1763856000295';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table budgets add team text not null default '', add meter jsonb`);
    // The same rules as in usage-reader.ts.
    await runner.query(`
      create function directory_team(merchant text, api_key text, user_id text) returns text
      language sql stable parallel safe as $$
        select coalesce(
          (select team from directory_entries where kind = 'apiKey' and id = $2 and merchant_id = $1),
          (select team from directory_entries where kind = 'apiKey' and id = $2 and merchant_id = ''),
          (select team from directory_entries where kind = 'user' and id = $3 and merchant_id = $1),
          (select team from directory_entries where kind = 'user' and id = $3 and merchant_id = ''))
      $$`);
    // The same rules as in meter-sql.ts; null: the meter does not count the event.
    await runner.query(`
      create function budget_meter_units(meter jsonb, requests bigint, failed_requests bigint, prompt_tokens bigint,
        completion_tokens bigint, cost bigint, metrics jsonb, properties jsonb, dimensions jsonb)
      returns numeric language sql immutable parallel safe as $$
        select case
          when meter ->> 'eventType' is not null
            and properties ->> 'event_type' is distinct from meter ->> 'eventType' then null
          when exists (
            select from jsonb_each(meter -> 'filters') as condition (name, wanted)
            where not wanted ? coalesce(
              nullif(
                case when name like 'property:%' then properties ->> substr(name, 10) else dimensions ->> name end, ''),
              'unknown')
          ) then null
          when meter ->> 'aggregation' = 'COUNT' then requests
          when meter ->> 'valueProperty' is not null then (
            select case
              when text ~ '^-?\\d{1,15}(\\.\\d{1,30})?$' and scale(trim_scale(text::numeric)) <= decimals
                then trim_scale(text::numeric * power(10::numeric, decimals))
            end
            from (
              select properties ->> regexp_replace(meter ->> 'valueProperty', '^property:', '') as text,
                (meter ->> 'scale')::int as decimals
            ) as value
          )
          else case meter ->> 'metricType'
            when 'requests' then requests
            when 'failed_requests' then failed_requests
            when 'prompt_tokens' then prompt_tokens
            when 'completion_tokens' then completion_tokens
            when 'total_tokens' then prompt_tokens + completion_tokens
            when 'cost' then cost
            else (metrics ->> (meter ->> 'metricType'))::bigint
          end
        end
      $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(
      'drop function budget_meter_units(jsonb, bigint, bigint, bigint, bigint, bigint, jsonb, jsonb, jsonb)',
    );
    await runner.query('drop function directory_team(text, text, text)');
    await runner.query('alter table budgets drop team, drop meter');
  }
}
