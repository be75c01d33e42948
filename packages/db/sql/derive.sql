-- Adds the events of some flushes to the derived rollups of days, many flushes at a time.
-- $1 flush ids   $2 first date   $3 last date of their events
-- Returns one row: the groups that were added.
with day_models as materialized (
  select
    merchant_id, date, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_counted_events
  where flush_id = any($1::bigint[]) and date between $2 and $3
  group by 1, 2, 3, 4
  having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
    or sum(cost) <> 0
),
added_to_usage_daily_models as (
  insert into usage_daily_models as old (merchant_id, date, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select
    merchant_id, date, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from day_models
  order by 1, 2, 3, 4
  on conflict (merchant_id, date, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
days as materialized (
  select
    date, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from day_models
  group by 1, 2, 3
),
added_to_usage_platform_daily as (
  insert into usage_platform_daily as old (date, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select
    date, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from days
  order by 1, 2, 3
  on conflict (date, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
)
select count(*) as groups from day_models
