-- A page of the entries that made a number, in order of their ids.
-- $1 merchant   $2 date   $3 metric types that make it   $4 the id to go on after   $5 how many
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events
where merchant_id = $1 and date = $2 and id > $4
  and (
    ('requests' = any($3::text[]) and requests <> 0)
    or ('failed_requests' = any($3) and failed_requests <> 0)
    or ('prompt_tokens' = any($3) and prompt_tokens <> 0)
    or ('completion_tokens' = any($3) and completion_tokens <> 0)
    or ('cost' = any($3) and cost <> 0)
    or metrics ?| $3
  )
order by id
limit $5
