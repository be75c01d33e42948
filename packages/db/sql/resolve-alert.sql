-- Records once that the condition of a rule is over, and queues its messages.
-- $1 rule   $2 event   $3 body   $4 now   $5 webhooks, or none for all   $6 when deliveries are given up
-- Returns one row: the number of firings that ended.
with resolved as (
  update alert_firings set resolved_at = $4 where rule = $1 and resolved_at is null
  returning id
),
sent as (
  insert into webhook_deliveries (webhook_id, event, body, next_attempt_at, give_up_at, created_at)
  select webhook.id, $2, $3, $4, $6, $4
  from webhooks as webhook
  where exists (select from resolved)
    and webhook.removed_at is null
    and (cardinality($5::uuid[]) = 0 or webhook.id = any($5))
    and (cardinality(webhook.events) = 0 or $2 = any(webhook.events))
)
select count(*)::int as fired from resolved
