-- Stores days imported as flat sums, replacing earlier snapshots of them.
-- $1 days   $2 by user   $3 by model   $4 by provider (json each, or null)   $5 cache status of each
insert into daily_usage_cache (
  date, raw_data, aggregated_by_user, aggregated_by_model, aggregated_by_provider, cache_status, cached_at, changes)
select date, '[]', by_user, by_model, by_provider, status, now(), null
from unnest($1::date[], $2::jsonb[], $3::jsonb[], $4::jsonb[], $5::text[]) as day (date, by_user, by_model, by_provider, status)
order by date
on conflict (date) do update set
  raw_data = excluded.raw_data,
  aggregated_by_user = excluded.aggregated_by_user,
  aggregated_by_model = excluded.aggregated_by_model,
  aggregated_by_provider = excluded.aggregated_by_provider,
  cache_status = excluded.cache_status,
  cached_at = excluded.cached_at,
  changes = null
returning date
