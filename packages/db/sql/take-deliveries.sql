-- Takes due deliveries for some time: if their process dies, another takes them again.
-- $1 now   $2 end of the time   $3 how many of one webhook at most   $4 webhooks to leave out
with due as (
  select delivery.id
  from webhooks as webhook
  cross join lateral (
    select pending.id
    from webhook_deliveries as pending
    where pending.webhook_id = webhook.id and pending.status = 'pending' and pending.next_attempt_at <= $1
    order by pending.next_attempt_at
    limit $3
    for update skip locked
  ) as delivery
  where webhook.id <> all($4::uuid[])
)
update webhook_deliveries as delivery
set attempts = attempts + 1, next_attempt_at = $2
from due, webhooks as webhook
where delivery.id = due.id and webhook.id = delivery.webhook_id
returning
  delivery.id, delivery.webhook_id, delivery.body, delivery.attempts, delivery.give_up_at, webhook.url, webhook.secret,
  case when webhook.previous_until > $1 then webhook.previous_secret end as previous_secret,
  webhook.removed_at is not null as removed
