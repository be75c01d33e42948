-- The books of some merchants' days, side by side: one row per merchant, day and metric type that any book has.
-- $1 merchant ids, null for all   $2 first date   $3 last date
-- `journal` is entries + adjustments; of a closed day, what was kept of its entries + adjustments.
-- Books that do not keep a metric type have null for it.
with entries as (
  select merchant_id, date, metric_type, metric_value
  from (
    select
      merchant_id, date,
      sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
    from usage_events
    where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
    group by 1, 2
  ) as sums
  -- @include measures
  union all
  select merchant_id, date, key, sum(value::bigint)
  from usage_events
  cross join lateral jsonb_each_text(metrics)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3 and metrics is not null
  group by 1, 2, 3
  union all
  select merchant_id, date, metric_type, metric_value
  from usage_journal_closings
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
),
adjustments as (
  select merchant_id, date, metric_type, metric_value
  from usage_adjustments
  -- @include measures
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select merchant_id, date, key, value::bigint
  from usage_adjustments
  cross join lateral jsonb_each_text(metrics)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3 and metrics is not null
),
cubes as (
  select 'daily' as book, merchant_id, date, metric_type, metric_value
  from usage_daily
  -- @include measures
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select 'daily_models', merchant_id, date, metric_type, metric_value
  from usage_daily_models
  -- @include measures
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select 'quarter_hours', merchant_id, (bucket at time zone 'UTC')::date, metric_type, metric_value
  from usage_quarter_hours
  -- @include measures
  where ($1::text[] is null or merchant_id = any($1))
    and bucket >= $2::date::timestamp at time zone 'UTC' and bucket < ($3::date + 1)::timestamp at time zone 'UTC'
),
books as (
  select 'journal' as book, * from entries
  union all
  select 'journal', * from adjustments
  union all
  select * from cubes
  union all
  select 'usage', merchant_id, date, metric_type, metric_value
  from merchant_usage
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
)
select
  merchant_id, date, metric_type,
  coalesce(sum(metric_value) filter (where book = 'journal'), 0) as journal,
  coalesce(sum(metric_value) filter (where book = 'usage'), 0) as usage,
  case when measured then coalesce(sum(metric_value) filter (where book = 'daily'), 0) end as daily,
  case when measured then coalesce(sum(metric_value) filter (where book = 'daily_models'), 0) end as daily_models,
  case when measured then coalesce(sum(metric_value) filter (where book = 'quarter_hours'), 0) end as quarter_hours
from books
cross join lateral (
  select metric_type in ('requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost') as measured
) as kind
group by merchant_id, date, metric_type, measured
order by merchant_id, date, metric_type
