-- Adds adjustments that this transaction has just recorded to the spend of budgets, at the start of their day. A void
-- takes its event out of the period of the event.
-- $1 merchant   $2 ids of the adjustments
with changed as materialized (
  select
    1 as sign, merchant_id, date::timestamp at time zone 'UTC' as time, user_id, api_key, model, provider, requests,
    failed_requests, prompt_tokens, completion_tokens, cost, metrics, null::jsonb as properties, null::boolean as failed
  -- Each looked up by itself: else Postgres reads all adjustments of the merchant, if it believes them to be few.
  from unnest($2::text[]) as added (added_id)
  cross join lateral (
    select * from usage_adjustments where merchant_id = $1 and id = added_id limit 1
  ) as adjustment
  where void_of is null
  union all
  select
    -1, event.merchant_id, event.time, event.user_id, event.api_key, event.model, event.provider, event.requests,
    event.failed_requests, event.prompt_tokens, event.completion_tokens, event.cost, event.metrics, event.properties,
    event.failed
  from unnest($2::text[]) as added (added_id)
  cross join lateral (
    select * from usage_adjustments where merchant_id = $1 and id = added_id limit 1
  ) as void
  join usage_events as event on event.merchant_id = $1 and event.date = void.date and event.id = void.void_of
),
adjusted as materialized (
  select
    changed.*,
    case
      when exists (select from budgets where removed_at is null and team <> '')
        then coalesce(directory_team(merchant_id, api_key, user_id), '')
      else ''
    end as team
  from changed
),
counted as (
  select
    budget.id,
    budget_period_start(budget.period, adjusted.time, budget.time_zone) as period_start,
    sign * case budget.measure
      when 'cost' then cost
      when 'requests' then requests
      when 'tokens' then prompt_tokens + completion_tokens
      else budget_meter_units(
        budget.meter, requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties,
        jsonb_build_object(
          'user', adjusted.user_id, 'apiKey', adjusted.api_key, 'model', adjusted.model, 'provider', provider,
          'status', case when failed then 'failure' when not failed then 'success' end))
    end as units
  from adjusted
  cross join (
    select distinct budget_way(merchant_id, user_id, api_key, team, model) as way
    from budgets
    where removed_at is null
  ) as ways
  -- `offset 0`: a key is computed once, not for each budget that it is compared with.
  cross join lateral (
    select
      budget_key(way, adjusted.merchant_id, adjusted.user_id, adjusted.api_key, adjusted.team, adjusted.model) as key
    offset 0
  ) as wanted
  join budgets as budget
    on budget.removed_at is null
      and budget_key(
        budget_way(budget.merchant_id, budget.user_id, budget.api_key, budget.team, budget.model),
        budget.merchant_id, budget.user_id, budget.api_key, budget.team, budget.model) = wanted.key
      and budget.merchant_id in ('', adjusted.merchant_id)
      and budget.user_id in ('', adjusted.user_id)
      and budget.api_key in ('', adjusted.api_key)
      and budget.team in ('', adjusted.team)
      and budget.model in ('', adjusted.model)
)
insert into budget_spend as old (budget_id, period_start, units)
select id, period_start, sum(units)
from counted
group by 1, 2
having sum(units) <> 0
order by 1, 2
on conflict (budget_id, period_start) do update set units = old.units + excluded.units
