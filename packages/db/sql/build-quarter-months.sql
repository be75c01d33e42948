-- Computes a quarter of a month of some merchants from its days, which are all rolled up.
-- $1 first day of the quarter   $2 merchant ids
-- Returns one row: the groups that were added.
with groups as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from (
    select merchant_id, date, user_id, api_key, model, provider, requests, failed_requests, prompt_tokens,
      completion_tokens, cost
    from usage_daily
    where date between $1 and $1::date + 8 and usage_quarter_month(date) = $1 and merchant_id = any($2::text[])
    union all
    select merchant_id, date, user_id, api_key, model, provider, -requests as requests,
      -failed_requests as failed_requests, -prompt_tokens as prompt_tokens, -completion_tokens as completion_tokens,
      -cost as cost
    from usage_pending
    where date between $1 and $1::date + 8 and usage_quarter_month(date) = $1 and merchant_id = any($2::text[])
  ) as counted
  group by 1, 2, 3, 4, 5, 6
  having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
    or sum(cost) <> 0
),
quarter_months as materialized (
  select
    merchant_id, usage_quarter_month(date) as quarter_month, user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from groups
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
  select 'usage_quarter_months' as rollup, period, merchant_id from added_to_usage_quarter_months where is_new
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
