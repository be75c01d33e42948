-- What Tally priced, summed over users and API keys: by merchant, day, model, provider and size of calls.
-- $1 first day   $2 last day   $3 merchants, or null for all   $4 how many at most   $5 providers, or null for all
-- $6 only merchants after this one
select cells.*, exists (select from usage_closed_days as closed where closed.date = cells.date) as is_closed
from (
  select
    merchant_id, date, model, provider, call_size, count(*)::int as rows,
    sum(priced_events) as priced_events, sum(priced_requests) as priced_requests,
      sum(priced_input_tokens) as priced_input_tokens, sum(priced_cached_tokens) as priced_cached_tokens,
      sum(priced_cache_write_tokens) as priced_cache_write_tokens, sum(priced_output_tokens) as priced_output_tokens,
      sum(priced_reasoning_tokens) as priced_reasoning_tokens, sum(priced_cost) as priced_cost
  from usage_priced
  where date between $1::date and $2::date and ($3::text[] is null or merchant_id = any($3))
    and ($5::text[] is null or provider = any($5)) and merchant_id > $6
  group by 1, 2, 3, 4, 5
  order by 1, 2, 3, 4, 5
  limit $4
) as cells
