-- Returns the days of the journal from a day on, in order.
-- $1 day
select to_date(right(partition.relname, 8), 'YYYYMMDD') as date
from pg_inherits
join pg_class as partition on partition.oid = inhrelid
where inhparent = 'usage_events'::regclass and to_date(right(partition.relname, 8), 'YYYYMMDD') >= $1::date
order by 1
