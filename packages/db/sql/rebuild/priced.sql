-- A merchant's rows of `usage_priced` from its events that were not voided, and its re-ratings.
-- $1 merchant   $2 days that still have their events
insert into usage_priced (
  merchant_id, date, user_id, api_key, model, provider, call_size,
  priced_events, priced_requests, priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens,
    priced_output_tokens, priced_reasoning_tokens, priced_cost, reratings)
select
  merchant_id, date, user_id, api_key, model, provider, call_size,
  sum(priced_events), sum(priced_requests), sum(priced_input_tokens), sum(priced_cached_tokens),
    sum(priced_cache_write_tokens), sum(priced_output_tokens), sum(priced_reasoning_tokens), sum(priced_cost),
    sum(reratings)
from (
  select merchant_id, date, user_id, api_key, model, provider, call_size, priced_events, priced_requests,
    priced_input_tokens, priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
    priced_cost, 0 as reratings
  from usage_priced_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  select
    merchant_id, date,
    case when folded & 1 <> 0 then '(other)' else user_id end as user_id,
    case when folded & 2 <> 0 then '(other)' else api_key end as api_key,
    case when folded & 4 <> 0 then '(other)' else model end as model,
    case when folded & 8 <> 0 then '(other)' else provider end as provider,
    rerated_size, 0, 0, 0, 0, 0, 0, 0, cost, 1
  from usage_adjustments
  where merchant_id = $1 and date = any($2::date[]) and rerated_size is not null
) as counted
group by 1, 2, 3, 4, 5, 6, 7
