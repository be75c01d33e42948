-- Returns a page of the events behind a number, in order of day and id.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all
-- $9, $10 last date and id before the page   $11 limit
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events
where merchant_id = $1 and date between $2 and $3 and (date, id) > ($9, $10)
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
order by date, id
limit $11
