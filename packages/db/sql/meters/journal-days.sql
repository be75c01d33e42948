-- Returns the days in the journal, and the open days that have only adjustments.
select case when child.relname ~ '^usage_events_\d{8}$' then to_date(right(child.relname, 8), 'YYYYMMDD') end as date
from pg_inherits
join pg_class as child on child.oid = inhrelid
where inhparent = 'usage_events'::regclass
union
select date from usage_adjustments where date not in (select date from usage_closed_days)
order by 1
