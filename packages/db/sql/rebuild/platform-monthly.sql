-- The rows of `usage_platform_monthly` from `usage_monthly_models`.
-- $1 a day of the first month   $2 a day of the last month
insert into usage_platform_monthly (
  month, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  month, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_monthly_models
where month >= date_trunc('month', $1::date) and month < date_trunc('month', $2::date) + interval '1 month'
group by 1, 2, 3
