-- Returns the days of a range that have usage or a snapshot, and whether the snapshot is up to date.
-- $1 first date   $2 last date
with versions as (
  select period as date, sum(changes) as changes
  from usage_changes
  where grain = 'day' and period between $1 and $2
  group by period
),
documents as (
  select date, cache_status, cached_at, changes
  from daily_usage_cache
  where date between $1 and $2
)
select
  date, cache_status, cached_at,
  -- A snapshot of another system has no version; nothing counted here makes it stale.
  cache_status is not null and coalesce(documents.changes, versions.changes, 0) = coalesce(versions.changes, 0) as current,
  cache_status is not null and documents.changes is null as imported
from versions
full join documents using (date)
order by date
