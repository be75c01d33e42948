-- Returns the columns of a view, one row each, and whether the role that reads for formulas may read it.
-- $1 schema   $2 view   $3 role; the current user if it does not exist
select
  coalesce(role.rolname, current_user)::text as reader,
  has_schema_privilege(coalesce(role.oid, current_user::regrole), space.oid, 'usage')
    and has_table_privilege(coalesce(role.oid, current_user::regrole), view.oid, 'select') as readable,
  attribute.attname as name, format_type(type.oid, null) as "sqlType", type.typcategory as category
from pg_class as view
join pg_namespace as space on space.oid = view.relnamespace
join pg_attribute as attribute on attribute.attrelid = view.oid and attnum > 0 and not attisdropped
join pg_type as type on type.oid = attribute.atttypid
left join pg_roles as role on role.rolname = $3 and pg_has_role(current_user, role.oid, 'member')
where space.nspname = $1 and view.relname = $2 and view.relkind in ('v', 'm')
