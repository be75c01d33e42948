-- Returns the tables with their partition keys, in order of name. Partitions are data, not schema.
select c.oid, c.relname as name, pg_get_partkeydef(c.oid) as partition_key
from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
order by c.relname
