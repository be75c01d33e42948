-- The adjustments of a merchant, of one date or one id.
-- $1 merchant   $2 date, null for any   $3 id, null for any
select
  merchant_id, id, date, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, reason, actor, created_at
from usage_adjustments
where merchant_id = $1 and ($2::date is null or date = $2) and ($3::text is null or id = $3)
order by created_at, id
