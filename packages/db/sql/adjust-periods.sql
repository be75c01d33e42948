-- Adds adjustments that were recorded now, of days that are rolled up, to the rollups of months and years.
-- $1 json array of the adjustments
with adjustment as (
  select
    merchant_id, date, requests, failed_requests, prompt_tokens, completion_tokens, cost,
    case when folded & 1 <> 0 then '(other)' else user_id end as user_id,
    case when folded & 2 <> 0 then '(other)' else api_key end as api_key,
    case when folded & 4 <> 0 then '(other)' else model end as model,
    case when folded & 8 <> 0 then '(other)' else provider end as provider
  from json_to_recordset($1::json) as adjustment (
    merchant_id text, id text, date date, user_id text, api_key text, model text, provider text,
    requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint,
    metrics jsonb, folded smallint, reason text, actor text, rerated_size smallint, time timestamptz)
),
groups as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from adjustment
  group by 1, 2, 3, 4, 5, 6
  having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
    or sum(cost) <> 0
),
months as materialized (
  select
    merchant_id, date_trunc('month', date)::date as month, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from groups
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_monthly as (
  insert into usage_monthly as old (merchant_id, month, user_id, api_key, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost)
  select
    merchant_id, month, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from months
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, month, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
  returning merchant_id, month as period, xmax = 0 as is_new
),
month_models as materialized (
  select
    merchant_id, month, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from months
  group by 1, 2, 3, 4
),
added_to_usage_monthly_models as (
  insert into usage_monthly_models as old (merchant_id, month, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost)
  select
    merchant_id, month, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from month_models
  order by 1, 2, 3, 4
  on conflict (merchant_id, month, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
years as materialized (
  select
    merchant_id, date_trunc('year', month)::date as year, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from months
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_yearly as (
  insert into usage_yearly as old (merchant_id, year, user_id, api_key, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost)
  select
    merchant_id, year, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from years
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, year, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
  returning merchant_id, year as period, xmax = 0 as is_new
),
users as materialized (
  select
    month, user_id,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from months
  group by 1, 2
),
added_to_usage_platform_users as (
  insert into usage_platform_users as old (month, user_id, requests, failed_requests, prompt_tokens, completion_tokens,
    cost)
  select
    month, user_id,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from users
  order by 1, 2
  on conflict (month, user_id) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
platform_months as materialized (
  select
    date_trunc('month', date)::date as month, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from groups
  where date < (select date from usage_rolled_up)
  group by 1, 2, 3
),
added_to_usage_platform_monthly as (
  insert into usage_platform_monthly as old (month, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select
    month, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from platform_months
  order by 1, 2, 3
  on conflict (month, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
),
quarter_months as materialized (
  select
    merchant_id, usage_quarter_month(date) as quarter_month, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from groups
  where (usage_quarter_month(date), merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_quarter_months as (
  insert into usage_quarter_months as old (merchant_id, quarter_month, user_id, api_key, model, provider, requests,
    failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, quarter_month, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from quarter_months
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, quarter_month, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
  returning merchant_id, quarter_month as period, xmax = 0 as is_new
),
new_rows as (
  select 'usage_monthly' as rollup, period, merchant_id from added_to_usage_monthly where is_new
  union all
  select 'usage_quarter_months' as rollup, period, merchant_id from added_to_usage_quarter_months where is_new
  union all
  select 'usage_yearly' as rollup, period, merchant_id from added_to_usage_yearly where is_new
),
counted_rows as (
  insert into usage_rollup_rows as old (merchant_id, rollup, period, rows)
  select merchant_id, rollup, period, count(*) from new_rows group by 1, 2, 3
  union all
  select '', rollup, period, count(*) from new_rows group by 1, 2, 3
  order by 1, 2, 3
  on conflict (merchant_id, rollup, period) do update set rows = old.rows + excluded.rows
)
select count(*) as groups from groups
