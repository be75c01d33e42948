-- Removes the weeks of an older setting. Marks as stale the weeks that cover their days, and every month, which
-- contains weeks of the older setting too. Stale weeks of the older setting become those that cover their days.
-- $1 first days of the weeks to remove   $2 ISO weekday that weeks begin with
with removed as (
  delete from weekly_metrics where period_start = any($1::date[])
),
waiting as (
  delete from metrics_stale_periods
  where grain = 'weekly' and extract(isodow from period_start) <> $2::int
  returning period_start
),
starts as (
  select unnest($1::date[]) as start
  union
  select period_start from waiting
),
days as (
  select start + days as day
  from starts
  cross join (values (0), (6)) as each (days)
)
insert into metrics_stale_periods (grain, period_start, merchant_id)
select distinct 'weekly', day - (extract(isodow from day)::int - $2::int + 7) % 7, ''
from days
union
select distinct 'monthly', period_start, ''
from monthly_metrics
where cardinality($1::date[]) > 0
order by 1, 2
on conflict do nothing
