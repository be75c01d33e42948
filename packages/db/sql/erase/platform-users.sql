-- Moves a merchant's share of a user in the rollup of all merchants to the pseudonym, before `usage_monthly` is moved.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
with own as (
  select month, sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
    sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_monthly
  where merchant_id = $1 and user_id = $2 and month >= $4::date and month < $5::date
  group by month
),
moved as (
  select month, user_id, sign * requests as requests, sign * failed_requests as failed_requests,
    sign * prompt_tokens as prompt_tokens, sign * completion_tokens as completion_tokens, sign * cost as cost
  from own
  cross join (values ($2::text, -1), ($3::text, 1)) as side (user_id, sign)
)
insert into usage_platform_users as old (month, user_id, requests, failed_requests, prompt_tokens, completion_tokens,
  cost)
select
  month, user_id,
  requests, failed_requests, prompt_tokens, completion_tokens, cost
from moved
order by 1, 2
on conflict (month, user_id) do update set
  requests = old.requests + excluded.requests,
  failed_requests = old.failed_requests + excluded.failed_requests,
  prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
  completion_tokens = old.completion_tokens + excluded.completion_tokens,
  cost = old.cost + excluded.cost
