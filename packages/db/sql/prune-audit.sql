-- Removes the oldest rows of the audit log beyond an age. Returns their number.
-- $1 days kept   $2 limit
with gone as (
  delete from audit_log
  where id in (
    select id from audit_log where at < now() - make_interval(days => $1::int) order by at limit $2
  )
  returning 1
)
select count(*)::int as rows from gone
