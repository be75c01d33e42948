-- Rebuilds the rows of `usage_platform_monthly` from `usage_platform_daily`.
-- $1 a day of the first month   $2 a day of the last month
insert into usage_platform_monthly (
  month, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  date_trunc('month', date)::date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_platform_daily
where date >= date_trunc('month', $1::date) and date < date_trunc('month',
  $2::date) + interval '1 month' and date < (select date from usage_rolled_up)
group by 1, 2, 3
