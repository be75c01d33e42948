-- Months whose cube does not equal the sum of its days.
-- $1 merchant ids, null for all   $2 a day of the first month   $3 a day of the last month
with sums as (
  select
    'days' as book, merchant_id, date_trunc('month', date)::date as month,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where ($1::text[] is null or merchant_id = any($1))
    and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month', $3::date) + interval '1 month')::date
  union all
  select 'month', merchant_id, month, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_monthly
  where ($1::text[] is null or merchant_id = any($1))
    and month between date_trunc('month', $2::date)::date and date_trunc('month', $3::date)::date
)
select merchant_id, month as date, metric_type, days, month_value as monthly
from (
  select
    merchant_id, month, metric_type,
    coalesce(sum(metric_value) filter (where book = 'days'), 0) as days,
    coalesce(sum(metric_value) filter (where book = 'month'), 0) as month_value
  from sums
  -- @include measures
  group by 1, 2, 3
) as compared
where days <> month_value
order by 1, 2, 3
