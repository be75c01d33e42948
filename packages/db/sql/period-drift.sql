-- Returns periods whose derived rollup differs from the sum of its source: months and years from the sum of their
-- rolled-up days. With $1 null, also compares rollups of all merchants, under the merchant ''.
-- $1 merchant ids, null for all   $2 a day of the first period   $3 a day of the last period
with sums as (
  select
    'usage_monthly' as rollup, merchant_id as merchant_id, date_trunc('month', date)::date as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_daily
  where ($1::text[] is null or merchant_id = any($1)) and date >= date_trunc('month',
    $2::date)::date and date < (date_trunc('month', $3::date) + interval '1 month')::date and (date,
    merchant_id) <= (select date, merchant_id from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_monthly' as rollup, merchant_id as merchant_id, month as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_monthly
  where ($1::text[] is null or merchant_id = any($1)) and month between date_trunc('month',
    $2::date)::date and date_trunc('month', $3::date)::date
  group by 2, 3
  union all
  select
    'usage_monthly' as rollup, merchant_id as merchant_id, date_trunc('month', date)::date as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_pending
  where ($1::text[] is null or merchant_id = any($1)) and date >= date_trunc('month',
    $2::date)::date and date < (date_trunc('month', $3::date) + interval '1 month')::date and (date,
    merchant_id) <= (select date, merchant_id from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_quarter_months' as rollup, merchant_id as merchant_id, usage_quarter_month(date) as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_daily
  where ($1::text[] is null or merchant_id = any($1)) and date >= date_trunc('month',
    $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date and (usage_quarter_month(date), merchant_id) <= (select quarter_month,
    quarter_merchant from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_quarter_months' as rollup, merchant_id as merchant_id, quarter_month as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_quarter_months
  where ($1::text[] is null or merchant_id = any($1)) and quarter_month >= date_trunc('month',
    $2::date)::date and quarter_month < (date_trunc('month', $3::date) + interval '1 month')::date
  group by 2, 3
  union all
  select
    'usage_quarter_months' as rollup, merchant_id as merchant_id, usage_quarter_month(date) as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_pending
  where ($1::text[] is null or merchant_id = any($1)) and date >= date_trunc('month',
    $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date and (usage_quarter_month(date), merchant_id) <= (select quarter_month,
    quarter_merchant from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_monthly_models' as rollup, merchant_id as merchant_id, date_trunc('month', date)::date as first,
      'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_daily_models
  where ($1::text[] is null or merchant_id = any($1)) and date >= date_trunc('month',
    $2::date)::date and date < (date_trunc('month', $3::date) + interval '1 month')::date and (date,
    merchant_id) <= (select date, merchant_id from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_monthly_models' as rollup, merchant_id as merchant_id, month as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_monthly_models
  where ($1::text[] is null or merchant_id = any($1)) and month between date_trunc('month',
    $2::date)::date and date_trunc('month', $3::date)::date
  group by 2, 3
  union all
  select
    'usage_yearly' as rollup, merchant_id as merchant_id, date_trunc('year', month)::date as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_monthly
  where ($1::text[] is null or merchant_id = any($1)) and month >= date_trunc('year',
    $2::date)::date and month < (date_trunc('year', $3::date)::date + interval '1 year')::date
  group by 2, 3
  union all
  select
    'usage_yearly' as rollup, merchant_id as merchant_id, year as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_yearly
  where ($1::text[] is null or merchant_id = any($1)) and year between date_trunc('year',
    $2::date)::date and date_trunc('year', $3::date)::date
  group by 2, 3
  union all
  select
    'usage_platform_daily' as rollup, '' as merchant_id, date as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_daily_models
  where $1::text[] is null and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date
  group by 2, 3
  union all
  select
    'usage_platform_daily' as rollup, '' as merchant_id, date as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_platform_daily
  where $1::text[] is null and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date
  group by 2, 3
  union all
  select
    'usage_platform_monthly' as rollup, '' as merchant_id, date_trunc('month', date)::date as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_platform_daily
  where $1::text[] is null and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date and date < (select date from usage_rolled_up)
  group by 2, 3
  union all
  select
    'usage_platform_monthly' as rollup, '' as merchant_id, month as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_platform_monthly
  where $1::text[] is null and month between date_trunc('month', $2::date)::date and date_trunc('month', $3::date)::date
  group by 2, 3
  union all
  select
    'usage_flush_sums' as rollup, '' as merchant_id, date as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_pending
  where $1::text[] is null and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date and flush_id in (select id from usage_flushes where summed)
  group by 2, 3
  union all
  select
    'usage_flush_sums' as rollup, '' as merchant_id, date as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_flush_sums
  where $1::text[] is null and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month',
    $3::date) + interval '1 month')::date and flush_id in (select id from usage_flushes where derived_at is null)
  group by 2, 3
  union all
  select
    'usage_platform_users' as rollup, '' as merchant_id, month as first, 'parts' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_monthly
  where $1::text[] is null and month between date_trunc('month', $2::date)::date and date_trunc('month', $3::date)::date
  group by 2, 3
  union all
  select
    'usage_platform_users' as rollup, '' as merchant_id, month as first, 'whole' as part,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_platform_users
  where $1::text[] is null and month between date_trunc('month', $2::date)::date and date_trunc('month', $3::date)::date
  group by 2, 3
)
select rollup, merchant_id, first as date, metric_type, parts, whole
from (
  select
    rollup, merchant_id, first, metric_type,
    coalesce(sum(metric_value) filter (where part = 'parts'), 0) as parts,
    coalesce(sum(metric_value) filter (where part = 'whole'), 0) as whole
  from sums
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  group by 1, 2, 3, 4
) as compared
where parts <> whole
order by 2, 1, 3, 4
