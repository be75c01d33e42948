-- Returns the definitions of a table's indexes that belong to no constraint.
-- $1 oid of the table
select pg_get_indexdef(indexrelid) || ';'
from pg_index
where indrelid = $1 and not exists (select from pg_constraint where conindid = indexrelid)
order by indexrelid::regclass::text
