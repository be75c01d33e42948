-- Records the outcomes of attempts, except of deliveries that were taken or replayed again since.
-- $1 deliveries   $2 until when each was taken   $3 statuses   $4 next attempts   $5 HTTP statuses   $6 errors
-- $7 when each ended
update webhook_deliveries as delivery
set status = outcome.status, next_attempt_at = outcome.next_at, last_status = outcome.last_status,
  last_error = outcome.last_error, ended_at = case when outcome.status <> 'pending' then outcome.at end
from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::int[], $6::text[], $7::timestamptz[])
  as outcome (id, taken_until, status, next_at, last_status, last_error, at)
where delivery.id = outcome.id and delivery.next_attempt_at = outcome.taken_until
