-- About how many rows tables have and how many bytes they take, with their partitions.
-- $1 tables
select
  name, sum(greatest(reltuples, 0))::float8 as rows, sum(pg_total_relation_size(pg_class.oid))::float8 as bytes
from unnest($1::text[]) with ordinality as wanted (name, place)
cross join lateral (
  select name::regclass as relid
  union
  select relid from pg_partition_tree(name::regclass)
) as part
join pg_class on pg_class.oid = part.relid
group by name, place
order by place
