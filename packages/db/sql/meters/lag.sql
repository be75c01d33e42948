-- Returns how many flushes and events are not yet added to the rollups of meters, and the age of the oldest in ms.
select
  count(*)::int as flushes, coalesce(sum(inserted), 0) as events,
  coalesce(extract(epoch from clock_timestamp() - min(started_at)) * 1000, 0)::float8 as oldest_ms
from usage_flushes
where metered is null
