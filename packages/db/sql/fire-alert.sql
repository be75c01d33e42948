-- Records that a rule fired, once per period and threshold, and queues its messages, in one statement.
-- $1 rule   $2 start of the period   $3 threshold   $4 event   $5 data   $6 body   $7 now   $8 webhooks, or none for
-- all
-- $9 when deliveries are given up
-- Returns one row: 1 if it is new.
with fired as (
  insert into alert_firings (rule, period_start, threshold, event, data, fired_at)
  values ($1, $2, $3, $4, $5::jsonb, $7)
  on conflict (rule, period_start, threshold) do nothing
  returning id
),
sent as (
  insert into webhook_deliveries (webhook_id, event, body, next_attempt_at, give_up_at, created_at)
  select webhook.id, $4, $6, $7, $9, $7
  from webhooks as webhook, fired
  where webhook.removed_at is null
    and (cardinality($8::uuid[]) = 0 or webhook.id = any($8))
    and (cardinality(webhook.events) = 0 or $4 = any(webhook.events))
)
select count(*)::int as fired from fired
