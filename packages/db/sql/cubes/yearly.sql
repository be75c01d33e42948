-- A merchant's rows of `usage_yearly` from `usage_monthly`.
-- $1 merchant id   $2 first days of years
insert into usage_yearly (
  merchant_id, year, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, year, user_id, api_key, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from unnest($2::date[]) as year
join usage_monthly on merchant_id = $1 and month >= year and month < (year + interval '1 year')::date
group by 1, 2, 3, 4, 5, 6
