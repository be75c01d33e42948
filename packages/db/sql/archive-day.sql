-- Returns the events of a day in the form that usage.record accepts: amounts as text, without absent dimensions.
-- $1 date
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
      'metrics', amounts.metrics,
      'properties', event.properties
    )
  )::text as line
from usage_events as event
cross join lateral (
  select jsonb_object_agg(metric_type, trim_scale(amount)::text) as metrics
  from (
    select metric_type, amount
    from (values
      ('prompt_tokens', event.prompt_tokens::numeric),
      ('completion_tokens', event.completion_tokens::numeric),
      ('cost', event.cost * 0.000000001)
    ) as measure (metric_type, amount)
    where amount <> 0
    union all
    select own.key, own.value::numeric / power(10::numeric, coalesce(scale.decimals, 0))
    from jsonb_each_text(coalesce(event.metrics, '{}')) as own
    left join (
      select metric_type, max(scale) as decimals
      from meters
      where metric_type is not null
      group by metric_type
    ) as scale on scale.metric_type = own.key
  ) as amount
) as amounts
where event.date = $1
order by event.merchant_id, event.id
