-- A merchant's rows of `usage_monthly` from `usage_daily`.
-- $1 merchant id   $2 first days of months
insert into usage_monthly (
  merchant_id, month, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, month, user_id, api_key, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from unnest($2::date[]) as month
join usage_daily on merchant_id = $1 and date >= month and date < (month + interval '1 month')::date
group by 1, 2, 3, 4, 5, 6
