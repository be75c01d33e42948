-- Flushes that are still to be added to the derived rollups, and the days of their events.
select coalesce(array_agg(id::text), '{}') as ids, min(first_date)::text as first, max(last_date)::text as last
from usage_flushes
where derived_at is null
