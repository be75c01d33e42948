-- Returns a page of the audit log, newest first. Each filter that is null holds for all rows.
-- $1 first day   $2 last day   $3 actor   $4 action   $5 id that the page begins before   $6 rows
select id, at, service, action, actor, role, actor_merchant_id, merchant_ids, target_id, input, outcome, duration_ms
from audit_log
where ($1::date is null or at >= $1::date)
  and ($2::date is null or at < $2::date + 1)
  and ($3::text is null or actor = $3)
  and ($4::text is null or action = $4)
  and ($5::bigint is null or id < $5)
order by id desc
limit $6
