-- Returns the imported snapshots of a range, their groupings, and whether the day also has counted usage, which then
-- answers for it.
-- $1 first date   $2 last date
select
  date, cache_status as status, counted,
  document_has_keys(aggregated_by_user) as by_user,
  document_has_keys(aggregated_by_model) as by_model,
  document_has_keys(aggregated_by_provider) as by_provider
from usage_imported_days
where date between $1 and $2
order by date
