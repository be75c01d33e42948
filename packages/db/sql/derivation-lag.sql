-- What is still to be derived, and for how long the oldest of it has waited.
select
  count(*)::int as flushes, coalesce(sum(inserted), 0) as events,
  coalesce(extract(epoch from clock_timestamp() - min(started_at)) * 1000, 0)::float8 as oldest_ms
from usage_flushes
where derived_at is null
