-- Rebuilds a merchant's rows of `usage_yearly` from `usage_monthly`.
-- $1 merchant   $2 first day of the year
insert into usage_yearly (
  merchant_id, year, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date_trunc('year', date)::date, user_id, api_key, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from (select month as date, usage_monthly.* from usage_monthly) as months
where merchant_id = $1 and month >= $2::date and month < ($2::date + interval '1 year')::date
group by 1, 2, 3, 4, 5, 6
having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
  or sum(cost) <> 0
