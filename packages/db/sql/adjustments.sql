-- The newest adjustments of a merchant, of some dates or one id, each beside how many there are.
-- $1 merchant   $2 first date, null for any   $3 last date   $4 id, null for any
-- $5 metric types that they change, null for any   $6 users   $7 API keys   $8 models   $9 providers, each null for all
-- $10 how many at most
select
  merchant_id, id, date, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, reason, actor, created_at,
  count(*) over () as all_adjustments
from usage_adjustments
where merchant_id = $1 and ($2::date is null or date between $2 and $3) and ($4::text is null or id = $4)
  and (
    $5::text[] is null
    or ('requests' = any($5) and requests <> 0)
    or ('failed_requests' = any($5) and failed_requests <> 0)
    or ('prompt_tokens' = any($5) and prompt_tokens <> 0)
    or ('completion_tokens' = any($5) and completion_tokens <> 0)
    or ('cost' = any($5) and cost <> 0)
    or metrics ?| $5
  )
  and ($6::text[] is null or user_id = any($6) or (folded & 1 <> 0 and '(other)' = any($6)))
  and ($7::text[] is null or api_key = any($7) or (folded & 2 <> 0 and '(other)' = any($7)))
  and ($8::text[] is null or model = any($8) or (folded & 4 <> 0 and '(other)' = any($8)))
  and ($9::text[] is null or provider = any($9) or (folded & 8 <> 0 and '(other)' = any($9)))
order by created_at desc, id desc
limit $10
