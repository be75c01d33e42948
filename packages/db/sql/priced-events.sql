-- Returns a page of the events of a merchant's day that Tally priced, or tried to price, in order of their ids, without
-- voided ones.
-- $1 merchant   $2 date   $3 last id before the page   $4 limit
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version, folded, call_size
from usage_events as event
cross join lateral usage_priced_parts(prompt_tokens, completion_tokens, calls, failed, metrics) as parts
where merchant_id = $1 and date = $2 and id > $3 and price_version is not null
  and not exists (
    select from usage_adjustments as voided
    where voided.void_of is not null and voided.merchant_id = $1 and voided.date = $2 and voided.void_of = event.id
  )
order by id
limit $4
