-- Returns the newest event with an id of Lago, of one merchant or of any.
-- $1 id   $2 merchant; null: any
-- The second condition is that of the index usage_events_lago: without it, every event of every day would be read.
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, price_version
from usage_events
where id = $1 and id like 'lago:%' and ($2::text is null or merchant_id = $2)
order by time desc, merchant_id
limit 1
