-- The newest adjustments of a merchant, of one date or one id, each beside how many there are.
-- $1 merchant   $2 date, null for any   $3 id, null for any   $4 metric types that they change, null for any
-- $5 how many at most
select
  merchant_id, id, date, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, reason, actor, created_at,
  count(*) over () as all_adjustments
from usage_adjustments
where merchant_id = $1 and ($2::date is null or date = $2) and ($3::text is null or id = $3)
  and (
    $4::text[] is null
    or ('requests' = any($4) and requests <> 0)
    or ('failed_requests' = any($4) and failed_requests <> 0)
    or ('prompt_tokens' = any($4) and prompt_tokens <> 0)
    or ('completion_tokens' = any($4) and completion_tokens <> 0)
    or ('cost' = any($4) and cost <> 0)
    or metrics ?| $4
  )
order by created_at desc, id desc
limit $5
