-- Returns whether the server has the role that reads for formulas, and this user may become it.
-- $1 role
select exists (
  select from pg_roles
  where rolname = $1 and pg_has_role(current_user, oid, 'member')
) as found
