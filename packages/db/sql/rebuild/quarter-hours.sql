-- Rebuilds a merchant's rows of `usage_quarter_hours` from its events and adjustments.
-- $1 merchant   $2 days that still have their events
insert into usage_quarter_hours (
  merchant_id, bucket, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date_bin('15 minutes', time, '2000-01-01T00:00:00Z'), model, provider,
  units_sum(requests), units_sum(failed_requests), units_sum(prompt_tokens), units_sum(completion_tokens),
    units_sum(cost)
from (
  select time, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_counted_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  select coalesce(time, date::timestamp at time zone 'UTC') as time, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost
  from usage_counted_adjustments
  where merchant_id = $1 and date = any($2::date[])
) as counted
group by 1, 2, 3, 4
having units_sum(requests) <> 0 or units_sum(failed_requests) <> 0 or units_sum(prompt_tokens) <> 0
  or units_sum(completion_tokens) <> 0 or units_sum(cost) <> 0
