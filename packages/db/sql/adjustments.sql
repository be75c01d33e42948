-- Returns the newest adjustments of a merchant's days, each with the total number, in columns named like the entity's.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that they change
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 limit
select
  merchant_id as "merchantId", id, date, user_id as "userId", api_key as "apiKey", model, provider,
  requests, failed_requests as "failedRequests", prompt_tokens as "promptTokens",
  completion_tokens as "completionTokens", cost, metrics, reason, actor, created_at as "createdAt",
  count(*) over () as count
from usage_adjustments
where merchant_id = $1 and date between $2 and $3
  and (
    ('requests' = any($4::text[]) and requests <> 0)
    or ('failed_requests' = any($4::text[]) and failed_requests <> 0)
    or ('prompt_tokens' = any($4::text[]) and prompt_tokens <> 0)
    or ('completion_tokens' = any($4::text[]) and completion_tokens <> 0)
    or ('cost' = any($4::text[]) and cost <> 0)
    or metrics ?| $4
  )
  and ($5::text[] is null or user_id = any($5) or (folded & 1 <> 0 and '(other)' = any($5)))
  and ($6::text[] is null or api_key = any($6) or (folded & 2 <> 0 and '(other)' = any($6)))
  and ($7::text[] is null or model = any($7) or (folded & 4 <> 0 and '(other)' = any($7)))
  and ($8::text[] is null or provider = any($8) or (folded & 8 <> 0 and '(other)' = any($8)))
order by created_at desc, id desc
limit $9
