-- Returns the definitions of a table's constraints, without not null.
-- $1 oid of the table
select format('  constraint %I %s', conname, pg_get_constraintdef(oid))
from pg_constraint
where conrelid = $1 and contype <> 'n'
order by conname
