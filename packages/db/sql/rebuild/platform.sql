-- Adds a merchant's month to the rollups of all merchants, or subtracts it.
-- $1 merchant   $2 first day of the month   $3 1 or -1
with days as (
  select date, model, provider, $3::int * requests as requests, $3::int * failed_requests as failed_requests,
    $3::int * prompt_tokens as prompt_tokens, $3::int * completion_tokens as completion_tokens, $3::int * cost as cost
  from usage_daily_models
  where merchant_id = $1 and date >= $2::date and date < ($2::date + interval '1 month')::date
),
months as (
  select * from days where date < (select date from usage_rolled_up)
),
users as (
  select month as date, user_id, $3::int * requests as requests, $3::int * failed_requests as failed_requests,
    $3::int * prompt_tokens as prompt_tokens, $3::int * completion_tokens as completion_tokens, $3::int * cost as cost
  from usage_monthly
  where merchant_id = $1 and month = $2
),
added_to_usage_platform_daily as (
  insert into usage_platform_daily as old (date, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select
    date, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from days
  group by 1, 2, 3
  order by 1, 2, 3
  on conflict (date, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
added_to_usage_platform_monthly as (
  insert into usage_platform_monthly as old (month, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select
    date_trunc('month', date)::date, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from months
  group by 1, 2, 3
  order by 1, 2, 3
  on conflict (month, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
added_to_usage_platform_users as (
  insert into usage_platform_users as old (month, user_id, requests, failed_requests, prompt_tokens, completion_tokens,
    cost)
  select
    date_trunc('month', date)::date, user_id,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from users
  group by 1, 2
  order by 1, 2
  on conflict (month, user_id) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
)
select 1
