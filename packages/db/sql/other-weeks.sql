-- Returns weeks of `weekly_metrics` that begin with another weekday than $1 (ISO): rows of an older setting.
-- Goes from one start to the next by the primary key, so that only one row of each week is read.
with recursive weeks (start) as (
  (select period_start from weekly_metrics order by period_start limit 1)
  union all
  select (select period_start from weekly_metrics where period_start > start order by period_start limit 1)
  from weeks
  where start is not null
)
select start
from weeks
where extract(isodow from start) <> $1::int
