-- Rebuilds a merchant's rows of `usage_daily_models` from `usage_daily`, without what is not derived yet.
-- $1 merchant   $2 days
insert into usage_daily_models (
  merchant_id, date, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from (
  select date, user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where merchant_id = $1 and date = any($2::date[])
  union all
  select date, user_id, api_key, model, provider, -requests as requests, -failed_requests as failed_requests,
    -prompt_tokens as prompt_tokens, -completion_tokens as completion_tokens, -cost as cost
  from usage_pending
  where merchant_id = $1 and date = any($2::date[])
) as derived
group by 1, 2, 3, 4
having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
  or sum(cost) <> 0
