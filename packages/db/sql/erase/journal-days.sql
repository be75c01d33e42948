-- Returns the days of the journal from a day on, in order.
-- $1 day
select date
from (
  -- The case keeps other names from to_date, in whatever order the planner evaluates.
  select case when child.relname ~ '^usage_events_\d{8}$' then to_date(right(child.relname, 8), 'YYYYMMDD') end as date
  from pg_inherits
  join pg_class as child on child.oid = inhrelid
  where inhparent = 'usage_events'::regclass
) as day
where date >= $1::date
order by 1
