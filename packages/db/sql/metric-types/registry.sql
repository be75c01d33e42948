-- Returns what ingest must know about meters, at one moment: the version of the registry, metric types with decimals, and
-- the properties that meters read as numbers.
select
  version,
  coalesce((select json_agg(json_build_array(metric_type, scale)) from metric_types where scale > 0), '[]') as scales,
  coalesce(
    (
      select json_agg(json_build_object(
        'meter', key, 'merchantId', merchant_id, 'eventType', event_type,
        'property', regexp_replace(value_property, '^property:', ''), 'scale', scale))
      from meters
      where removed_at is null and value_property is not null and aggregation not in ('UNIQUE', 'COUNT')
    ),
    '[]'
  ) as values
from meter_state
