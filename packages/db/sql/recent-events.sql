-- Returns the newest events of a merchant in the journal.
-- $1 merchant   $2 limit
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events
where merchant_id = $1
order by time desc, id desc
limit $2
