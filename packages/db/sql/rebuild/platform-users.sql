-- Rebuilds the rows of `usage_platform_users` from `usage_monthly`.
-- $1 a day of the first month   $2 a day of the last month
insert into usage_platform_users (
  month, user_id,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  month, user_id,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_monthly
where month >= date_trunc('month', $1::date) and month < date_trunc('month', $2::date) + interval '1 month'
group by 1, 2
