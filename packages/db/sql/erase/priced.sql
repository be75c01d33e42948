-- Moves a user's rows of `usage_priced` to the pseudonym.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
-- Returns the periods that changed.
with moved as (
  delete from usage_priced
  where merchant_id = $1 and user_id = $2 and date >= $4::date and date < $5::date
  returning merchant_id, date, $3::text as user_id, api_key, model, provider, call_size, priced_events, priced_requests,
    priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
    priced_cost, reratings
),
added as (
  insert into usage_priced as old (merchant_id, date, user_id, api_key, model, provider, call_size, priced_events,
    priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens,
    priced_reasoning_tokens, priced_cost, reratings)
  select
    merchant_id, date, user_id, api_key, model, provider, call_size,
    priced_events, priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens,
      priced_output_tokens, priced_reasoning_tokens, priced_cost, reratings
  from moved
  order by 1, 2, 3, 4, 5, 6, 7
  on conflict (merchant_id, date, user_id, api_key, model, provider, call_size) do update set
    priced_events = old.priced_events + excluded.priced_events,
    priced_requests = old.priced_requests + excluded.priced_requests,
    priced_input_tokens = old.priced_input_tokens + excluded.priced_input_tokens,
    priced_cached_tokens = old.priced_cached_tokens + excluded.priced_cached_tokens,
    priced_cache_write_tokens = old.priced_cache_write_tokens + excluded.priced_cache_write_tokens,
    priced_output_tokens = old.priced_output_tokens + excluded.priced_output_tokens,
    priced_reasoning_tokens = old.priced_reasoning_tokens + excluded.priced_reasoning_tokens,
    priced_cost = old.priced_cost + excluded.priced_cost,
    reratings = old.reratings + excluded.reratings
  returning date
)
select distinct date as date
from added
order by 1
