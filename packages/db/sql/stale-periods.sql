-- Returns stale periods: days first, then weeks, then months, oldest first.
select grain, period_start as start
from metrics_stale_periods
group by grain, period_start
order by array_position('{daily,weekly,monthly}'::text[], grain), period_start
