-- A merchant's rows of `usage_daily_models` from `usage_daily`.
-- $1 merchant id   $2 days
insert into usage_daily_models (
  merchant_id, date, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_daily
where merchant_id = $1 and date = any($2::date[])
group by 1, 2, 3, 4
