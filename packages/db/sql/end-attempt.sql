-- Records the outcome of an attempt, unless the delivery was taken or replayed again since.
-- $1 delivery   $2 status   $3 next attempt   $4 HTTP status   $5 error   $6 now   $7 until when it was taken
update webhook_deliveries
set status = $2, next_attempt_at = $3, last_status = $4, last_error = $5,
  ended_at = case when $2 <> 'pending' then $6::timestamptz end
where id = $1 and next_attempt_at = $7
