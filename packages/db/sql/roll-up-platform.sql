-- Adds a day of all merchants to the months of all merchants.
-- $1 date
with days as (
  select date, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_platform_daily
  where date = $1
)
insert into usage_platform_monthly as old (month, model, provider, requests, failed_requests, prompt_tokens,
  completion_tokens, cost)
select
  date_trunc('month', date)::date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from days
group by 1, 2, 3
order by 1, 2, 3
on conflict (month, model, provider) do update set
  requests = old.requests + excluded.requests,
  failed_requests = old.failed_requests + excluded.failed_requests,
  prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
  completion_tokens = old.completion_tokens + excluded.completion_tokens,
  cost = old.cost + excluded.cost
