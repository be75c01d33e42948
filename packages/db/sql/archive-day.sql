-- Returns the events of a day in the form that usage.record accepts: amounts as text, without absent dimensions.
-- $1 date   $2 decimals by metric type, as an object
select
  jsonb_strip_nulls(
    jsonb_build_object(
      'id', event.id,
      'merchantId', event.merchant_id,
      'time', to_char(event.time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'userId', nullif(event.user_id, ''),
      'apiKey', nullif(event.api_key, ''),
      'model', nullif(event.model, ''),
      'provider', nullif(event.provider, ''),
      'status', case when event.failed then 'failure' else 'success' end,
      'count', event.calls,
      'metrics', nullif(
        jsonb_build_object(
          'prompt_tokens', nullif(event.prompt_tokens, 0)::text,
          'completion_tokens', nullif(event.completion_tokens, 0)::text,
          'cost', trim_scale(nullif(event.cost, 0) * 0.000000001)::text
        ) || coalesce(own.metrics, '{}'), '{"prompt_tokens": null, "completion_tokens": null, "cost": null}'),
      'properties', event.properties
    )
  )::text as line
from usage_events as event
cross join lateral (
  select jsonb_object_agg(
    key, trim_scale(value::numeric / power(10::numeric, coalesce(($2::jsonb ->> key)::int, 0)))::text) as metrics
  from jsonb_each_text(coalesce(event.metrics, '{}'))
) as own
where event.date = $1
order by event.merchant_id, event.id
