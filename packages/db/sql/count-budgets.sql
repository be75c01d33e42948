-- Adds the rows of the flush that this transaction counted to the spend of budgets.
-- $1 flush   $2 days of the batch   $3 ways to find the budgets of its merchants
-- Spend counts in the period of the event's time, in the zone of the budget. The coordinator of a cluster takes the
-- events first, since it alone has budgets and the directory.
with flushed as materialized (
  select
    time, merchant_id, user_id, api_key, model, provider, failed, cost, requests, failed_requests, prompt_tokens,
    completion_tokens, metrics, properties
  from usage_events
  where flush_id = $1::bigint and date = any($2::date[])
),
event as materialized (
  select
    flushed.*,
    case
      when exists (select from budgets where removed_at is null and team <> '')
        then coalesce(directory_team(merchant_id, api_key, user_id), '')
      else ''
    end as team
  from flushed
),
counted as (
  select
    budget.id, budget.period, budget.time_zone,
    case budget.period
      when 'total' then to_timestamp(0) else date_trunc(budget.period, event.time, budget.time_zone)
    end as truncated,
    case budget.measure
      when 'cost' then event.cost
      when 'requests' then event.requests
      when 'tokens' then event.prompt_tokens + event.completion_tokens
      else budget_meter_units(
        budget.meter, event.requests, event.failed_requests, event.prompt_tokens, event.completion_tokens, event.cost,
        event.metrics, event.properties,
        jsonb_build_object(
          'user', event.user_id, 'apiKey', event.api_key, 'model', event.model, 'provider', event.provider,
          'status', case when event.failed then 'failure' else 'success' end))
    end as units
  from event
  cross join unnest($3::text[]) as ways (way)
  join budgets as budget
    on budget.removed_at is null
      and budget_key(
        budget_way(budget.merchant_id, budget.user_id, budget.api_key, budget.team, budget.model),
        budget.merchant_id, budget.user_id, budget.api_key, budget.team, budget.model)
        = budget_key(ways.way, event.merchant_id, event.user_id, event.api_key, event.team, event.model)
      and budget.merchant_id in ('', event.merchant_id)
      and budget.user_id in ('', event.user_id)
      and budget.api_key in ('', event.api_key)
      and budget.team in ('', event.team)
      and budget.model in ('', event.model)
)
insert into budget_spend as old (budget_id, period_start, units)
select id, budget_period_of(period, truncated, time_zone), sum(units)
from counted
group by id, period, time_zone, truncated
having sum(units) <> 0
order by 1, 2
on conflict (budget_id, period_start) do update set units = old.units + excluded.units
