-- Counts lines: inserts the new ones into the journal, and adds those to the finest rollups. Coarser rollups are derived
-- later from the journal, by flush: see derive.sql.
-- $1 source of the flush   $2 to $21 one array per column with an element per line; empty if no line has a value
-- Returns one row: the flush, lines inserted, the days it changed, and the ways to find the budgets of its merchants.
-- Of repeats within the batch the first line counts, as in Redis.
-- Sums come only from `inserted` or its `groups`, without joins: the planner expects one row of a CTE, and would loop.
with lines as materialized (
  select *
  from unnest(
    $2::date[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::boolean[],
      $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[],
      $18::text[], $19::bigint[], $20::smallint[], $21::text[]
  ) with ordinality as line (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, requests, failed_requests,
      prompt_tokens, completion_tokens, cost, metrics, properties, price_version, folded, origin,
    ordinality)
),
flush as materialized (
  select nextval(pg_get_serial_sequence('usage_flushes', 'id')) as id
),
inserted as (
  insert into usage_events (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, requests, failed_requests,
      prompt_tokens, completion_tokens, cost, metrics, properties, price_version, folded, origin,
    flush_id)
  select
    date,
    merchant_id,
    id,
    to_timestamp(time / 1000.0),
    coalesce(user_id, ''),
    coalesce(api_key, ''),
    coalesce(model, ''),
    coalesce(provider, ''),
    coalesce(failed, false),
    coalesce(calls, 1),
    coalesce(requests, 0),
    coalesce(failed_requests, 0),
    coalesce(prompt_tokens, 0),
    coalesce(completion_tokens, 0),
    coalesce(cost, 0),
    metrics::jsonb,
    properties::jsonb,
    price_version,
    folded,
    origin,
    (select id from flush)
  from lines
  order by lines.date, lines.merchant_id, lines.id, lines.ordinality
  on conflict (date, merchant_id, id) do nothing
  returning
    merchant_id, date, time, requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, calls, failed,
      price_version,
    case when folded & 1 <> 0 then '(other)' else user_id end as user_id,
    case when folded & 2 <> 0 then '(other)' else api_key end as api_key,
    case when folded & 4 <> 0 then '(other)' else model end as model,
    case when folded & 8 <> 0 then '(other)' else provider end as provider
),
groups as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider,
    units_sum(requests) as requests, units_sum(failed_requests) as failed_requests,
      units_sum(prompt_tokens) as prompt_tokens, units_sum(completion_tokens) as completion_tokens,
      units_sum(cost) as cost
  from inserted
  group by 1, 2, 3, 4, 5, 6
  having units_sum(requests) <> 0 or units_sum(failed_requests) <> 0 or units_sum(prompt_tokens) <> 0
    or units_sum(completion_tokens) <> 0 or units_sum(cost) <> 0
),
added_to_usage_daily as (
  insert into usage_daily as old (merchant_id, date, user_id, api_key, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost)
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
added_to_usage_quarter_hours as (
  insert into usage_quarter_hours as old (merchant_id, bucket, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost)
  select
    merchant_id, date_bin('15 minutes', time, '2000-01-01T00:00:00Z'), model, provider,
    units_sum(requests), units_sum(failed_requests), units_sum(prompt_tokens), units_sum(completion_tokens),
      units_sum(cost)
  from inserted
  where requests <> 0 or failed_requests <> 0 or prompt_tokens <> 0 or completion_tokens <> 0 or cost <> 0
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
    units_sum(requests) as requests, units_sum(failed_requests) as failed_requests,
      units_sum(prompt_tokens) as prompt_tokens, units_sum(completion_tokens) as completion_tokens,
      units_sum(cost) as cost
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
  select merchant_id, date, key, units_sum(value::bigint)
  from inserted
  cross join lateral jsonb_each_text(metrics)
  where metrics is not null
  group by 1, 2, 3
),
added_to_merchant_usage as (
  insert into merchant_usage as old (merchant_id, date, metric_type, metric_value)
  select merchant_id, date, metric_type, metric_value
  from metric_values
  order by 1, 2, 3
  on conflict (merchant_id, date, metric_type) do update set
    metric_value = old.metric_value + excluded.metric_value
),
touched as (
  -- Always an update: the lock on the row keeps the mark from being taken before this commits.
  insert into usage_touched_days as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  order by 1, 2
  on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
),
changes as (
  insert into usage_changes as old (grain, period, merchant_id)
  select grain, period, merchant_id
  from (
    select 'day' as grain, date as period, merchant_id from by_merchant_day
    union
    select 'month', date_trunc('month', date)::date, merchant_id from by_merchant_day
  ) as changed
  order by 1, 2, 3
  on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_agg(merchant_id), array_agg(date)
  from by_merchant_day
  having count(*) > 0
),
stale as (
  -- Running totals lack what did not come through Redis; they are corrected soon after.
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
),
priced as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider, call_size, count(*) as priced_events,
    units_sum(priced_requests) as priced_requests, units_sum(priced_input_tokens) as priced_input_tokens,
      units_sum(priced_cached_tokens) as priced_cached_tokens,
      units_sum(priced_cache_write_tokens) as priced_cache_write_tokens,
      units_sum(priced_output_tokens) as priced_output_tokens,
      units_sum(priced_reasoning_tokens) as priced_reasoning_tokens, units_sum(cost) as priced_cost
  from inserted
  cross join lateral usage_priced_parts(prompt_tokens, completion_tokens, calls, failed, metrics) as parts
  where price_version is not null
  group by 1, 2, 3, 4, 5, 6, 7
),
added_to_usage_priced as (
  insert into usage_priced as old (merchant_id, date, user_id, api_key, model, provider, call_size, priced_events,
    priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens,
    priced_reasoning_tokens, priced_cost)
  select
    merchant_id, date, user_id, api_key, model, provider, call_size,
    priced_events, priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens,
      priced_output_tokens, priced_reasoning_tokens, priced_cost
  from priced
  order by 1, 2, 3, 4, 5, 6, 7
  on conflict (merchant_id, date, user_id, api_key, model, provider, call_size) do update set
    priced_events = old.priced_events + excluded.priced_events,
    priced_requests = old.priced_requests + excluded.priced_requests,
    priced_input_tokens = old.priced_input_tokens + excluded.priced_input_tokens,
    priced_cached_tokens = old.priced_cached_tokens + excluded.priced_cached_tokens,
    priced_cache_write_tokens = old.priced_cache_write_tokens + excluded.priced_cache_write_tokens,
    priced_output_tokens = old.priced_output_tokens + excluded.priced_output_tokens,
    priced_reasoning_tokens = old.priced_reasoning_tokens + excluded.priced_reasoning_tokens,
    priced_cost = old.priced_cost + excluded.priced_cost
),
summed as (
  -- For readers of all merchants, until the flush is derived.
  insert into usage_flush_sums (flush_id, date, model, provider, requests, failed_requests, prompt_tokens,
    completion_tokens, cost)
  select (select id from flush), date, model, provider, sum(requests), sum(failed_requests), sum(prompt_tokens),
    sum(completion_tokens), sum(cost)
  from groups
  group by 2, 3, 4
),
recorded as (
  -- A flush that counted nothing has nothing to derive.
  insert into usage_flushes (id, source, entries, inserted, merchants, first_date, last_date, derived_at, summed)
  overriding system value
  select
    (select id from flush), $1, cardinality($2), coalesce(sum(entries), 0), count(distinct merchant_id),
    min(date), max(date), case when count(*) = 0 then clock_timestamp() end, true
  from by_merchant_day
)
select
  (select count from told) as told,
  (select id from flush) as flush_id,
  coalesce((select sum(entries) from by_merchant_day), 0) as inserted,
  coalesce((
    select json_agg(json_build_object('merchantId', merchant_id, 'date', date) order by merchant_id, date)
    from by_merchant_day
  ), '[]') as changed,
  coalesce((
    select array_agg(distinct budget_way(merchant_id, user_id, api_key, team, model))
    from budgets
    where removed_at is null and (merchant_id = '' or merchant_id in (select merchant_id from by_merchant_day))
  ), '{}') as ways
