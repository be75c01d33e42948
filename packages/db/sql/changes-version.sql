-- The version of a range: changes of its whole months, of the days at its edges, and of everything. Days that were imported as
-- flat sums are of no merchant, and are in every answer that covers them.
-- $1 first date   $2 last date   $3 merchant ids, null for all
with bounds as materialized (
  select
    date_trunc('month', $1::date + interval '1 month - 1 day')::date as first_month,
    date_trunc('month', $2::date + 1)::date as after_months
),
counted as (
  select changes
  from usage_changes, bounds
  where grain = 'month' and period >= first_month and period < after_months
    and ($3::text[] is null or merchant_id = any($3) or merchant_id = '')
  union all
  select changes
  from usage_changes, bounds
  where grain = 'day' and period between $1::date and least(first_month - 1, $2::date)
    and ($3::text[] is null or merchant_id = any($3) or merchant_id = '')
  union all
  select changes
  from usage_changes, bounds
  where grain = 'day' and period between greatest(after_months, first_month, $1::date) and $2::date
    and ($3::text[] is null or merchant_id = any($3) or merchant_id = '')
  union all
  select changes
  from usage_changes
  where grain = 'all'
)
select coalesce(sum(changes), 0)::text as version
from counted
