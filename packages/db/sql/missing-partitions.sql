-- Returns the days without a partition of the journal. Reads the current catalog: to_regclass may remember that there
-- was none.
-- $1 days   $2 the names of their partitions
select day as date
from unnest($1::date[], $2::text[]) as asked (day, name)
where not exists (
  select
  from pg_class
  where relname = name and relnamespace = (select relnamespace from pg_class where oid = 'usage_events'::regclass)
)
order by day
