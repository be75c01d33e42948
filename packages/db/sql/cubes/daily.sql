-- A merchant's rows of `usage_daily` from its entries and adjustments.
-- $1 merchant id   $2 days that still have their entries
insert into usage_daily (
  merchant_id, date, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date, user_id, api_key, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from (
  select date, user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  select date, user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_adjustments
  where merchant_id = $1 and date = any($2::date[])
) as counted
group by 1, 2, 3, 4, 5, 6
having (sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost))
  is distinct from (0, 0, 0, 0, 0)
