-- Takes the event that an adjustment takes back out of what Tally priced.
-- $1 merchant   $2 id of the adjustment
insert into usage_priced as old (
  merchant_id, date, user_id, api_key, model, provider, call_size,
  priced_events, priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens,
    priced_output_tokens, priced_reasoning_tokens, priced_cost)
select
  event.merchant_id, event.date,
  case when event.folded & 1 <> 0 then '(other)' else event.user_id end,
  case when event.folded & 2 <> 0 then '(other)' else event.api_key end,
  case when event.folded & 4 <> 0 then '(other)' else event.model end,
  case when event.folded & 8 <> 0 then '(other)' else event.provider end,
  call_size, -1, -priced_requests, -priced_input_tokens, -priced_cached_tokens, -priced_cache_write_tokens,
    -priced_output_tokens, -priced_reasoning_tokens, -event.cost
from usage_adjustments as void
join usage_events as event on event.merchant_id = $1 and event.date = void.date and event.id = void.void_of
cross join lateral usage_priced_parts(event.prompt_tokens, event.completion_tokens, event.calls, event.failed,
  event.metrics) as parts
where void.merchant_id = $1 and void.id = $2 and event.price_version is not null
on conflict (merchant_id, date, user_id, api_key, model, provider, call_size) do update set
  priced_events = old.priced_events + excluded.priced_events,
  priced_requests = old.priced_requests + excluded.priced_requests,
  priced_input_tokens = old.priced_input_tokens + excluded.priced_input_tokens,
  priced_cached_tokens = old.priced_cached_tokens + excluded.priced_cached_tokens,
  priced_cache_write_tokens = old.priced_cache_write_tokens + excluded.priced_cache_write_tokens,
  priced_output_tokens = old.priced_output_tokens + excluded.priced_output_tokens,
  priced_reasoning_tokens = old.priced_reasoning_tokens + excluded.priced_reasoning_tokens,
  priced_cost = old.priced_cost + excluded.priced_cost
