-- Merchants' days of which `usage_priced` is not what their events and re-ratings make. Nothing is read before there was a
-- price.
-- $1 merchant ids, null for all   $2 first date   $3 last date
with forms as (
  select 'parts' as form, priced.* from (select merchant_id, date, priced_events, priced_requests, priced_input_tokens,
    priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
    priced_cost from usage_priced_events where ($1::text[] is null
    or merchant_id = any($1)) and date between $2 and $3) as priced
  union all
  select 'parts', priced.* from (select merchant_id, date, priced_events, priced_requests, priced_input_tokens,
    priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
    priced_cost from usage_priced_closings where ($1::text[] is null
    or merchant_id = any($1)) and date between $2 and $3) as priced
  union all
  select 'parts', merchant_id, date, 0, 0, 0, 0, 0, 0, 0, cost
  from usage_adjustments
  where ($1::text[] is null or merchant_id = any($1)) and date between $2 and $3 and rerated_size is not null
  union all
  select 'whole', priced.* from (select merchant_id, date, priced_events, priced_requests, priced_input_tokens,
    priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens,
    priced_cost from usage_priced where ($1::text[] is null
    or merchant_id = any($1)) and date between $2 and $3) as priced
),
sums as (
  select form, merchant_id, date, sum(priced_events) as priced_events, sum(priced_requests) as priced_requests,
    sum(priced_input_tokens) as priced_input_tokens, sum(priced_cached_tokens) as priced_cached_tokens,
    sum(priced_cache_write_tokens) as priced_cache_write_tokens, sum(priced_output_tokens) as priced_output_tokens,
    sum(priced_reasoning_tokens) as priced_reasoning_tokens, sum(priced_cost) as priced_cost
  from forms
  where exists (select 1 from price_list where version > 0)
  group by 1, 2, 3
)
select rollup, merchant_id, date, metric_type, parts, whole
from (
  select
    'usage_priced' as rollup, merchant_id, date, metric_type,
    coalesce(sum(metric_value) filter (where form = 'parts'), 0) as parts,
    coalesce(sum(metric_value) filter (where form = 'whole'), 0) as whole
  from sums
  cross join lateral (values
    ('priced_events', priced_events), ('priced_requests', priced_requests), ('priced_input_tokens',
      priced_input_tokens), ('priced_cached_tokens', priced_cached_tokens), ('priced_cache_write_tokens',
      priced_cache_write_tokens), ('priced_output_tokens', priced_output_tokens), ('priced_reasoning_tokens',
      priced_reasoning_tokens), ('priced_cost', priced_cost)
  ) as measure (metric_type, metric_value)
  group by 2, 3, 4
) as compared
where parts <> whole
order by 2, 3, 4
