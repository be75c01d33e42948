-- Compares all stored forms of some merchants' days: one row per merchant, day and metric type that any of them has.
-- $1 merchant ids, null for all   $2 first date   $3 last date
-- `journal` is events + adjustments; for a closed day, the kept sums + adjustments. A derived rollup is read with the
-- events that are not derived yet. Forms that do not keep a metric type have null for it.
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
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
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
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select merchant_id, date, key, value::bigint
  from usage_adjustments
  cross join lateral jsonb_each_text(metrics)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3 and metrics is not null
),
rollups as (
  select 'daily' as form, merchant_id, date, metric_type, metric_value
  from usage_daily
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select 'daily_models' as form, merchant_id, date, metric_type, metric_value
  from usage_daily_models
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select 'daily_models' as form, merchant_id, date, metric_type, metric_value
  from usage_pending
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
  union all
  select 'quarter_hours' as form, merchant_id, (bucket at time zone 'UTC')::date, metric_type, metric_value
  from usage_quarter_hours
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where ($1::text[] is null or merchant_id = any($1))
    and bucket >= $2::date::timestamp at time zone 'UTC' and bucket < ($3::date + 1)::timestamp at time zone 'UTC'
),
forms as (
  select 'journal' as form, * from entries
  union all
  select 'journal', * from adjustments
  union all
  select * from rollups
  union all
  select 'usage', merchant_id, date, metric_type, metric_value
  from merchant_usage
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3
)
select
  merchant_id, date, metric_type,
  coalesce(sum(metric_value) filter (where form = 'journal'), 0) as journal,
  coalesce(sum(metric_value) filter (where form = 'usage'), 0) as usage,
  case when measured then coalesce(sum(metric_value) filter (where form = 'daily'), 0) end as daily,
  case when measured then coalesce(sum(metric_value) filter (where form = 'daily_models'), 0) end as daily_models,
  case when measured then coalesce(sum(metric_value) filter (where form = 'quarter_hours'), 0) end as quarter_hours
from forms
cross join lateral (
  select metric_type in ('requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost') as measured
) as kind
group by merchant_id, date, metric_type, measured
order by merchant_id, date, metric_type
