-- Clears the marks of a stale period; returns the merchants that had one.
-- $1 grain   $2 first day
with cleared as (
  delete from metrics_stale_periods
  where grain = $1 and period_start = $2
  returning merchant_id
)
select coalesce(array_agg(merchant_id order by merchant_id), '{}') as merchants
from cleared
