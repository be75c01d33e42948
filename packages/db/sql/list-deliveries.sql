-- Returns a page of deliveries, newest first.
-- $1 webhook, or null   $2 status, or null   $3 last delivery before the page, or null   $4 limit
select id, webhook_id, event, body, status, attempts, next_attempt_at, last_status, last_error, created_at, ended_at
from webhook_deliveries
where ($1::uuid is null or webhook_id = $1) and ($2::text is null or status = $2)
  and ($3::uuid is null or (created_at, id) < (select created_at, id from webhook_deliveries where id = $3))
order by created_at desc, id desc
limit $4
