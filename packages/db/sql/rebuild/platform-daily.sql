-- Rebuilds the rows of `usage_platform_daily` from `usage_daily_models`.
-- $1 a day of the first month   $2 a day of the last month
insert into usage_platform_daily (
  date, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_daily_models
where date >= date_trunc('month', $1::date) and date < date_trunc('month', $2::date) + interval '1 month'
group by 1, 2, 3
