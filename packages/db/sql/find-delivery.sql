-- Returns one delivery.
-- $1 id
select id, webhook_id, event, body, status, attempts, next_attempt_at, last_status, last_error, created_at, ended_at
from webhook_deliveries
where id = $1
