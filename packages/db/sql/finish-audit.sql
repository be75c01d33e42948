-- Records the outcome of an administrative mutation.
-- $1 id   $2 outcome   $3 target, if it is known only now   $4 duration in milliseconds
update audit_log
set outcome = $2, target_id = coalesce(target_id, $3), duration_ms = $4
where id = $1::bigint
