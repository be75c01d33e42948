-- Queues one message for a webhook, or an ended delivery again.
-- $1 delivery to send again, or null   $2 webhook, or null   $3 event   $4 body   $5 now   $6 when it is given up
-- Returns the id, or no row if the delivery or webhook does not exist.
with again as (
  update webhook_deliveries
  set status = 'pending', attempts = 0, next_attempt_at = $5, give_up_at = $6, ended_at = null
  where id = $1
  returning id
),
fresh as (
  insert into webhook_deliveries (webhook_id, event, body, next_attempt_at, give_up_at, created_at)
  select id, $3, $4, $5, $6, $5
  from webhooks
  where id = $2 and removed_at is null
  returning id
)
select id from again
union all
select id from fresh
