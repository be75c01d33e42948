-- A merchant's rows of `usage_quarter_hours` from its entries, and its adjustments at the beginning of their days.
-- $1 merchant id   $2 days that still have their entries
insert into usage_quarter_hours (
  merchant_id, bucket, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date_bin('15 minutes', time, '2000-01-01T00:00:00Z'), model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from (
  select time, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  select date::timestamp at time zone 'UTC', model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_adjustments
  where merchant_id = $1 and date = any($2::date[])
) as counted
group by 1, 2, 3, 4
having (sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost))
  is distinct from (0, 0, 0, 0, 0)
