-- Returns the events of a merchant with an id, one per day.
-- $1 merchant   $2 id   $3 dates
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events
where date = any($3::date[]) and merchant_id = $1 and id = $2
order by date
