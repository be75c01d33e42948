-- Takes due deliveries for some time: if their process dies, another takes them again.
-- $1 now   $2 end of the time   $3 how many of one webhook may be in progress
-- $4 webhooks of which some are   $5 how many of each
with in_progress as (
  select * from unnest($4::uuid[], $5::int[]) as busy (webhook_id, messages)
),
due as (
  select delivery.id
  from webhooks as webhook
  left join in_progress on in_progress.webhook_id = webhook.id
  cross join lateral (
    select pending.id
    from webhook_deliveries as pending
    where pending.webhook_id = webhook.id and pending.status = 'pending' and pending.next_attempt_at <= $1
    order by pending.next_attempt_at
    limit $3 - coalesce(in_progress.messages, 0)
    for update skip locked
  ) as delivery
)
update webhook_deliveries as delivery
set attempts = attempts + 1, next_attempt_at = $2
from due, webhooks as webhook
where delivery.id = due.id and webhook.id = delivery.webhook_id
returning
  delivery.id, delivery.webhook_id, delivery.body, delivery.attempts, delivery.next_attempt_at as taken_until,
  delivery.give_up_at, webhook.url, webhook.secret,
  case when webhook.previous_until > $1 then webhook.previous_secret end as previous_secret,
  webhook.removed_at is not null as removed
