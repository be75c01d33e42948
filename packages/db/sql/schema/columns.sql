-- Returns the definitions of a table's columns.
-- $1 oid of the table
select format(
  '  %I %s%s%s%s', attname, format_type(atttypid, atttypmod),
  case when attnotnull then ' not null' else '' end,
  case attidentity when 'a' then ' generated always as identity' else '' end,
  coalesce(' default ' || pg_get_expr(adbin, adrelid), ''))
from pg_attribute
left join pg_attrdef on adrelid = attrelid and adnum = attnum
where attrelid = $1 and attnum > 0 and not attisdropped
order by attnum
