-- Returns days of the journal before $1 without writes since $2.
-- $1 the first day to keep   $2 moment
select day.date
from (
  -- The case keeps other names from to_date, in whatever order the planner evaluates.
  select case when child.relname ~ '^usage_events_\d{8}$' then to_date(right(child.relname, 8), 'YYYYMMDD') end as date
  from pg_inherits
  join pg_class as child on child.oid = inhrelid
  where inhparent = 'usage_events'::regclass
) as day
where day.date < $1
  and not exists (
    select from usage_flushes
    where started_at >= $2 and inserted > 0 and day.date between first_date and last_date
  )
order by 1
