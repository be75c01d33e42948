-- Returns whether any of some tables was never analyzed, or has changed by half since.
-- $1 schemas   $2 tables
select coalesce(bool_or(
  coalesce(pg_stat_get_last_analyze_time(class.oid), pg_stat_get_last_autoanalyze_time(class.oid)) is null
  or 2 * pg_stat_get_mod_since_analyze(class.oid) > class.reltuples), false) as stale
from unnest($1::text[], $2::text[]) as read (schema, name)
join pg_namespace as space on space.nspname = read.schema
join pg_class as class on class.relnamespace = space.oid and class.relname = read.name
