-- The statement that counts: what is new in the journal, and only that, is added to everything that is summed.
-- $1 json array of journal lines (see journal-line.ts)   $2 source of the flush
-- Returns one row: flush id, entries read, entries inserted, and the merchants' days it changed.
-- Of a repeat within the batch the first one counts, as in Redis.
with lines as materialized (
  select *
  from rows from (
    json_to_recordset($1::json) as (
      merchant_id text, date date, id text, time bigint,
      user_id text, api_key text, model text, provider text,
      failed boolean, calls bigint,
      requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint,
      metrics jsonb, properties jsonb
    )
  ) with ordinality
),
flush as materialized (
  insert into usage_flushes (source, entries, inserted, merchants)
  values ($2, 0, 0, 0)
  returning id
),
inserted as (
  insert into usage_events (
    date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, properties, flush_id)
  select
    date, merchant_id, id, to_timestamp(time / 1000.0), coalesce(user_id, ''), coalesce(api_key, ''),
    coalesce(model, ''), coalesce(provider, ''), coalesce(failed, false), coalesce(calls, 1),
    coalesce(requests, 0), coalesce(failed_requests, 0), coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0),
    coalesce(cost, 0), metrics, properties, (select id from flush)
  from lines
  order by lines.date, lines.merchant_id, lines.id, lines.ordinality
  on conflict (date, merchant_id, id) do nothing
  returning *
),
-- @include derive
select
  (select id from flush) as flush_id,
  (select count from told) as told,
  (select count(*) from lines) as entries,
  coalesce((select sum(entries) from by_merchant_day), 0) as inserted,
  coalesce((
    select json_agg(json_build_object('merchantId', merchant_id, 'date', date) order by merchant_id, date)
    from by_merchant_day
  ), '[]') as changed
