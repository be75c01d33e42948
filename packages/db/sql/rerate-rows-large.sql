-- Re-ratings: rows of what Tally priced whose cost is another by other rates, as arrays that `rerate.sql` takes.
-- $1 merchants, $2 days, $3 models, $4 providers and $5 sizes of cells, one element each
-- $6 to $11 nano-USD of a unit of each class, times $12
-- A cost is rounded once for a row, half away from zero. The cost before was rounded for each event: a difference that small
-- is none.
-- $13 re-ratings of one merchant in a row at most; days of a user come together
-- For cells of which 64 bits may be too few.
with cells as (
  select *
  from unnest(
    $1::text[], $2::date[], $3::text[], $4::text[], $5::smallint[],
    $6::numeric[], $7::numeric[], $8::numeric[], $9::numeric[], $10::numeric[], $11::numeric[], $12::numeric[]
  ) as cell (
    merchant_id, date, model, provider, call_size,
    rate_requests, rate_input_tokens, rate_cached_tokens, rate_cache_write_tokens, rate_output_tokens,
      rate_reasoning_tokens, per)
),
computed as (
  select
    priced.*, per,
    div(2 * (
      priced_requests * rate_requests
      + priced_input_tokens * rate_input_tokens
      + priced_cached_tokens * rate_cached_tokens
      + priced_cache_write_tokens * rate_cache_write_tokens
      + priced_output_tokens * rate_output_tokens
      + priced_reasoning_tokens * rate_reasoning_tokens
    ) + per, 2 * per) as cost
  from cells
  join usage_priced as priced using (merchant_id, date, model, provider, call_size)
  -- Else each statement would read the whole table.
  where priced.merchant_id = any($1) and priced.date between (select min(date) from cells) and (select max(date) from cells)
),
rerated as (
  select
    *, priced_cost as old,
    case when per > 1 and 2 * abs(cost - priced_cost) <= priced_events then priced_cost else cost end as new
  from computed
),
placed as (
  select
    *, new - old as difference,
    (row_number() over (partition by merchant_id order by user_id, date, api_key) - 1) / $13::int as place
  from rerated
  where new <> old
)
select
  merchant_id,
  array_agg(date)::text as date,
  array_agg(user_id)::text as user_id,
  array_agg(api_key)::text as api_key,
  array_agg(model)::text as model,
  array_agg(provider)::text as provider,
  array_agg(call_size)::text as call_size,
  array_agg(reratings)::text as reratings,
  array_agg(difference)::text as difference
from placed
group by merchant_id, place
order by merchant_id, place
