-- Returns a page of the events of a merchant's day that Tally priced, or tried to price, in order of their ids, without
-- voided ones.
-- $1 merchant   $2 date   $3 last id before the page   $4 limit
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events as event
where merchant_id = $1 and date = $2 and id > $3 and price_version is not null
  and not exists (
    select from usage_adjustments as void
    where void.merchant_id = $1 and void.id = 'void:' || $2::text || ':' || event.id
  )
order by id
limit $4
