-- The statement that counts: inserts the lines that are new into the journal and adds those to everything that is summed.
-- $1 source of the flush   $2 to $19 one array a column, of one element a line; an empty one where no line has a value
-- Returns one row: flush id, entries inserted, and the merchants' days it changed.
-- Of a repeat within the batch the first one counts, as in Redis.
with lines as materialized (
  select *
  from unnest(
    $2::date[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::boolean[],
    $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::text[], $18::text[],
    $19::text[]
  ) with ordinality as line (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed,
    calls, requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties,
    origin, ordinality)
),
flush as materialized (
  insert into usage_flushes (source, entries, inserted, merchants)
  values ($1, 0, 0, 0)
  returning id
),
inserted as (
  insert into usage_events (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, flush_id, origin)
  select
    date, merchant_id, id, to_timestamp(time / 1000.0), coalesce(user_id, ''), coalesce(api_key, ''),
    coalesce(model, ''), coalesce(provider, ''), coalesce(failed, false), coalesce(calls, 1),
    coalesce(requests, 0), coalesce(failed_requests, 0), coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0),
    coalesce(cost, 0), metrics::jsonb, properties::jsonb, (select id from flush), origin
  from lines
  order by lines.date, lines.merchant_id, lines.id, lines.ordinality
  on conflict (date, merchant_id, id) do nothing
  returning *
),
-- @include derive
select
  (select id from flush) as flush_id,
  (select count from told) as told,
  coalesce((select sum(entries) from by_merchant_day), 0) as inserted,
  coalesce((
    select json_agg(json_build_object('merchantId', merchant_id, 'date', date) order by merchant_id, date)
    from by_merchant_day
  ), '[]') as changed
