-- The view usage_imported_days for Citus, which cannot look into a distributed table once for each row of a local one.
create or replace view usage_imported_days as
select
  date, cache_status, aggregated_by_user, aggregated_by_model, aggregated_by_provider, counted.date is not null as counted
from daily_usage_cache as document
left join (
  select date
  from usage_daily
  where date = any(array(select date from daily_usage_cache where changes is null))
  group by date
) as counted using (date)
where changes is null
