-- Not a statement: what every counting statement goes on with. Adds the rows of `inserted` to all that is summed.
-- $1 source: `stream` where Redis has counted the same in its totals
-- Sums are taken from `inserted` or its `groups` alone and never joined: the planner guesses one row for a CTE and would loop.
groups as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
    sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from inserted
  group by 1, 2, 3, 4, 5, 6
  having (sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost))
    is distinct from (0, 0, 0, 0, 0)
),
daily as (
  insert into usage_daily as old (
    merchant_id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from groups
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, date, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
monthly as (
  insert into usage_monthly as old (
    merchant_id, month, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date_trunc('month', date)::date, user_id, api_key, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from groups
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, month, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
yearly as (
  insert into usage_yearly as old (
    merchant_id, year, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date_trunc('year', date)::date, user_id, api_key, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from groups
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, year, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
daily_models as (
  insert into usage_daily_models as old (
    merchant_id, date, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from groups
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (merchant_id, date, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
quarter_hours as (
  insert into usage_quarter_hours as old (
    merchant_id, bucket, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date_bin('15 minutes', time, '2000-01-01T00:00:00Z'), model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from inserted
  where (requests, failed_requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0, 0)
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (merchant_id, bucket, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
by_merchant_day as materialized (
  select
    merchant_id, date, count(*) as entries,
    sum(requests) as requests, sum(failed_requests) as failed_requests,
    sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from inserted
  group by 1, 2
),
metric_values as (
  select merchant_id, date, metric_type, metric_value
  from by_merchant_day
  -- @include measures
  where metric_value <> 0
  union all
  select merchant_id, date, key, sum(value::bigint)
  from inserted
  cross join lateral jsonb_each_text(metrics)
  where metrics is not null
  group by 1, 2, 3
),
merchant as (
  insert into merchant_usage as old (merchant_id, date, metric_type, metric_value)
  select merchant_id, date, metric_type, metric_value
  from metric_values
  order by 1, 2, 3
  on conflict (merchant_id, date, metric_type) do update set
    metric_value = old.metric_value + excluded.metric_value
),
touched as (
  -- An update, never nothing: the lock on the row keeps the mark from being taken before this commits.
  insert into usage_touched_days as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  order by 1, 2
  on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
),
stale as (
  -- Totals in Redis know nothing of what did not come through Redis; they are set right soon after.
  insert into usage_stale_totals as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  where $1 <> 'stream'
  order by 1, 2
  on conflict (merchant_id, date) do update set marked_at = excluded.marked_at
),
told as materialized (
  select count(pg_notify('usage_changed', merchant_id || ' ' || date))
  from by_merchant_day
)
