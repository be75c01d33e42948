-- Adds the rows of the flush that this transaction counted to the spend of budgets.
-- $1 flush   $2 days of the batch   $3 ids of the budgets of its merchants, and of those for all merchants
-- Spend counts in the period of the event's time, in the zone of the budget. Teams and meters are looked at on the
-- coordinator of a cluster, which alone has the directory.
with matching as materialized (
  select
    budget.id, budget.period, budget.time_zone, budget.measure, budget.team, event.time, event.merchant_id,
    event.user_id, event.api_key, event.model, event.provider, event.failed, event.cost, event.requests,
    event.failed_requests, event.prompt_tokens, event.completion_tokens, budget.meter,
    case when budget.measure = 'meter' then event.metrics end as metrics,
    case when budget.measure = 'meter' then event.properties end as properties
  from budgets as budget
  join usage_events as event
    on event.flush_id = $1::bigint
      and event.date = any($2::date[])
      and (budget.merchant_id = '' or budget.merchant_id = event.merchant_id)
      and (budget.user_id = '' or budget.user_id = event.user_id)
      and (budget.api_key = '' or budget.api_key = event.api_key)
      and (budget.model = '' or budget.model = event.model)
  where budget.id = any($3::uuid[])
),
counted as (
  select
    id, period, time_zone,
    case period when 'total' then to_timestamp(0) else date_trunc(period, time, time_zone) end as truncated,
    case measure
      when 'cost' then cost
      when 'requests' then requests
      when 'tokens' then prompt_tokens + completion_tokens
      else budget_meter_units(
        meter, requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties,
        jsonb_build_object(
          'user', user_id, 'apiKey', api_key, 'model', model, 'provider', provider,
          'status', case when failed then 'failure' else 'success' end))
    end as units
  from matching
  where team = '' or team = directory_team(merchant_id, api_key, user_id)
)
insert into budget_spend as old (budget_id, period_start, units)
select id, budget_period_of(period, truncated, time_zone), sum(units)
from counted
group by id, period, time_zone, truncated
having sum(units) <> 0
order by 1, 2
on conflict (budget_id, period_start) do update set units = old.units + excluded.units
