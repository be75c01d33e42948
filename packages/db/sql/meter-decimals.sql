-- Returns the decimals of metric types that meters declare, as an object.
select coalesce(jsonb_object_agg(metric_type, decimals), '{}')::text as decimals
from (
  select metric_type, max(scale) as decimals
  from meters
  where metric_type is not null
  group by metric_type
) as declared
