-- Adds re-ratings that this transaction has just recorded to what Tally priced, and takes events that it voids out of it.
-- $1 merchant   $2 ids of the adjustments
insert into usage_priced as old (
  merchant_id, date, user_id, api_key, model, provider, call_size,
  priced_events, priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens,
    priced_output_tokens, priced_reasoning_tokens, priced_cost, reratings)
select
  merchant_id, date, user_id, api_key, model, provider, call_size,
  units_sum(priced_events), units_sum(priced_requests), units_sum(priced_input_tokens), units_sum(priced_cached_tokens),
    units_sum(priced_cache_write_tokens), units_sum(priced_output_tokens), units_sum(priced_reasoning_tokens),
    units_sum(priced_cost), sum(reratings)
from (
  select
    merchant_id, date,
    case when folded & 1 <> 0 then '(other)' else user_id end as user_id,
    case when folded & 2 <> 0 then '(other)' else api_key end as api_key,
    case when folded & 4 <> 0 then '(other)' else model end as model,
    case when folded & 8 <> 0 then '(other)' else provider end as provider,
    rerated_size, 0, 0, 0, 0, 0, 0, 0, cost, 1
  from unnest($2::text[]) as added (added_id)
  cross join lateral (
    select * from usage_adjustments where merchant_id = $1 and id = added_id limit 1
  ) as adjustment
  where rerated_size is not null
  union all
  select
    event.merchant_id, event.date,
    case when event.folded & 1 <> 0 then '(other)' else event.user_id end as user_id,
    case when event.folded & 2 <> 0 then '(other)' else event.api_key end as api_key,
    case when event.folded & 4 <> 0 then '(other)' else event.model end as model,
    case when event.folded & 8 <> 0 then '(other)' else event.provider end as provider,
    call_size, -1, -priced_requests, -priced_input_tokens, -priced_cached_tokens, -priced_cache_write_tokens,
      -priced_output_tokens, -priced_reasoning_tokens, -event.cost, 0
  from unnest($2::text[]) as added (added_id)
  cross join lateral (
    select * from usage_adjustments where merchant_id = $1 and id = added_id limit 1
  ) as void
  join usage_events as event on event.merchant_id = $1 and event.date = void.date and event.id = void.void_of
  cross join lateral usage_priced_parts(event.prompt_tokens, event.completion_tokens, event.calls, event.failed,
    event.metrics) as parts
  where event.price_version is not null
) as changed (merchant_id, date, user_id, api_key, model, provider, call_size, priced_events, priced_requests,
  priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
  priced_cost, reratings)
group by 1, 2, 3, 4, 5, 6, 7
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
