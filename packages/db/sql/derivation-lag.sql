-- Returns how many flushes and events are not derived yet, the age of the oldest, and the first day that is not rolled up.
select
  count(*)::int as flushes, coalesce(sum(inserted), 0) as events,
  coalesce(extract(epoch from clock_timestamp() - min(started_at)) * 1000, 0)::float8 as oldest_ms,
  (select date from usage_rolled_up) as first_open_day
from usage_flushes
where derived_at is null
