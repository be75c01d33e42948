-- Returns the columns of all views. Postgres words definitions differently from version to version.
select format(
  'view %I.%I (%s)', n.nspname, c.relname,
  string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' order by attnum))
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on attrelid = c.oid and attnum > 0
where c.relkind = 'v' and n.nspname not in ('pg_catalog', 'information_schema')
group by n.nspname, c.relname
order by 1
