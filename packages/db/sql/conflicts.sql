-- Stores lines whose content differs from the row with their identity. The same line again stores nothing.
-- $1 source   $2 lines as json, one element per line   $3 to $22 the columns of the lines, as in append.sql
-- Returns their positions, counted from 0.
with compared as materialized (
  select
    line.ordinality, line.merchant_id, line.date, line.id, line.time, event.time as counted_time, line.json,
    jsonb_strip_nulls(jsonb_build_object(
      'id', line.id, 'failed', nullif(line.failed, false), 'calls', nullif(line.calls, 1),
      'user_id', nullif(line.user_id, ''), 'api_key', nullif(line.api_key, ''), 'model', nullif(line.model, ''),
        'provider', nullif(line.provider, ''),
      'prompt_tokens', nullif(line.prompt_tokens, 0), 'completion_tokens', nullif(line.completion_tokens, 0), 'cost',
        case when line.price_version is null then nullif(line.cost, 0) end,
      'metrics', line.metrics::jsonb, 'properties', line.properties::jsonb
    )) as sent,
    jsonb_strip_nulls(jsonb_build_object(
      'id', event.id, 'failed', nullif(event.failed, false), 'calls', nullif(event.calls, 1),
      'user_id', nullif(event.user_id, ''), 'api_key', nullif(event.api_key, ''), 'model', nullif(event.model, ''),
        'provider', nullif(event.provider, ''),
      'prompt_tokens', nullif(event.prompt_tokens, 0), 'completion_tokens', nullif(event.completion_tokens, 0), 'cost',
        case when event.price_version is null then nullif(event.cost, 0) end,
      'metrics', event.metrics::jsonb, 'properties', event.properties::jsonb
    )) as counted
  from unnest(
    $2::text[], $3::date[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[],
      $11::boolean[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[],
      $18::text[], $19::text[], $20::bigint[], $21::smallint[], $22::text[]
  ) with ordinality as line (
    json, date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls, requests, failed_requests,
      prompt_tokens, completion_tokens, cost, metrics, properties, price_version, folded, origin,
    ordinality)
  join usage_events as event
    on event.date = line.date and event.merchant_id = line.merchant_id and event.id = line.id
),
stored as (
  insert into usage_conflicts (
    merchant_id, date, entry_id, time, digest, counted_time, counted_digest, line, source)
  select
    merchant_id, date, id, to_timestamp(time / 1000.0), encode(sha256(convert_to(sent::text, 'UTF8')), 'hex'),
    counted_time, encode(sha256(convert_to(counted::text, 'UTF8')), 'hex'), json::jsonb, $1
  from compared
  where sent <> counted
  order by merchant_id, date, id, ordinality
  on conflict (merchant_id, date, entry_id, digest) do nothing
)
select (ordinality - 1)::int as position
from compared
where sent <> counted
order by 1
