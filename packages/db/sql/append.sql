-- The statement that counts: what is new in the journal, and only that, is added to everything that is summed.
-- $1 json array of journal lines (see journal-line.ts)   $2 source of the flush
-- Returns one row: flush id, entries read, entries inserted, and the merchants' days it changed.
-- Of a repeat within the batch the first one counts, as in Redis.
-- Groups are taken from `inserted` alone and never joined: the planner guesses one row for a CTE and would loop.
with lines as materialized (
  select *
  from rows from (
    json_to_recordset($1::json) as (
      merchant_id text, date date, id text, time bigint,
      user_id text, api_key text, model text, provider text,
      failed boolean, calls bigint,
      requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint,
      metrics jsonb, properties jsonb
    )
  ) with ordinality
),
flush as materialized (
  insert into usage_flushes (source, entries, inserted, merchants)
  values ($2, 0, 0, 0)
  returning id
),
inserted as (
  insert into usage_events (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, flush_id)
  select
    date, merchant_id, id, to_timestamp(time / 1000.0), coalesce(user_id, ''), coalesce(api_key, ''),
    coalesce(model, ''), coalesce(provider, ''), coalesce(failed, false), coalesce(calls, 1),
    coalesce(requests, 0), coalesce(failed_requests, 0), coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0),
    coalesce(cost, 0), metrics, properties, (select id from flush)
  from lines
  order by lines.date, lines.merchant_id, lines.id, lines.ordinality
  on conflict (date, merchant_id, id) do nothing
  returning *
),
daily as (
  insert into usage_daily as old (
    merchant_id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date, user_id, api_key, model, provider,
    sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from inserted
  where (requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0)
  group by 1, 2, 3, 4, 5, 6
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
  from inserted
  where (requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0)
  group by 1, 2, 3, 4, 5, 6
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, month, user_id, api_key, model, provider) do update set
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
  from inserted
  where (requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0)
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
  where (requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0)
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
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
    ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
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
told as materialized (
  select count(pg_notify('usage_changed', merchant_id || ' ' || date))
  from by_merchant_day
)
select
  (select id from flush) as flush_id,
  (select count from told) as told,
  (select count(*) from lines) as entries,
  coalesce((select sum(entries) from by_merchant_day), 0) as inserted,
  coalesce((
    select json_agg(json_build_object('merchantId', merchant_id, 'date', date) order by merchant_id, date)
    from by_merchant_day
  ), '[]') as changed
