-- Months whose cube does not equal the sum of its days, and years whose cube does not equal the sum of its months.
-- $1 merchant ids, null for all   $2 a day of the first period   $3 a day of the last period
with months as materialized (
  select merchant_id, month, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_monthly
  where ($1::text[] is null or merchant_id = any($1))
    and month between date_trunc('year', $2::date)::date and (date_trunc('year', $3::date) + interval '11 months')::date
),
sums as (
  select
    'month' as grain, 'parts' as book, merchant_id, date_trunc('month', date)::date as first,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where ($1::text[] is null or merchant_id = any($1))
    and date >= date_trunc('month', $2::date)::date and date < (date_trunc('month', $3::date) + interval '1 month')::date
  union all
  select 'month', 'whole', merchant_id, month, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from months
  where month between date_trunc('month', $2::date)::date and date_trunc('month', $3::date)::date
  union all
  select
    'year', 'parts', merchant_id, date_trunc('year', month)::date,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from months
  union all
  select 'year', 'whole', merchant_id, year, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_yearly
  where ($1::text[] is null or merchant_id = any($1))
    and year between date_trunc('year', $2::date)::date and date_trunc('year', $3::date)::date
)
select grain, merchant_id, first as date, metric_type, parts, whole
from (
  select
    grain, merchant_id, first, metric_type,
    coalesce(sum(metric_value) filter (where book = 'parts'), 0) as parts,
    coalesce(sum(metric_value) filter (where book = 'whole'), 0) as whole
  from sums
  -- @include measures
  group by 1, 2, 3, 4
) as compared
where parts <> whole
order by 2, 1, 3, 4
