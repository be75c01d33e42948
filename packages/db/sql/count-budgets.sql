-- Adds the rows of the flush that this transaction counted to the spend of budgets.
-- $1 days of the batch   $2 ids of the budgets of its merchants, and of those for all merchants
-- Spend counts in the period of the event's time, in the zone of the budget.
with matching as (
  select budget.*, event.time, event.cost, event.requests, event.prompt_tokens + event.completion_tokens as tokens
  from budgets as budget
  join usage_events as event
    on event.flush_id = currval(pg_get_serial_sequence('usage_flushes', 'id'))
      and event.date = any($1::date[])
      and (budget.merchant_id = '' or budget.merchant_id = event.merchant_id)
      and (budget.user_id = '' or budget.user_id = event.user_id)
      and (budget.api_key = '' or budget.api_key = event.api_key)
      and (budget.model = '' or budget.model = event.model)
  where budget.id = any($2::uuid[])
)
insert into budget_spend as old (budget_id, period_start, units)
select
  id,
  case period when 'total' then to_timestamp(0) else date_trunc(period, time, time_zone) end as period_start,
  sum(case measure when 'cost' then cost when 'requests' then requests else tokens end) as units
from matching
group by 1, 2
order by 1, 2
on conflict (budget_id, period_start) do update set units = old.units + excluded.units
