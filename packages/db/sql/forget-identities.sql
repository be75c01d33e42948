-- Deletes conflicts, identities and admitted values of a closed day: its partition accepts no more events.
-- $1 day
with conflicts as (
  delete from usage_conflicts where date = $1
),
admitted as (
  delete from usage_admitted_values where date = $1
)
delete from usage_midnight_days as known
where midnight = $1
  or (midnight < $1 and exists (select from usage_closed_days as closed where closed.date = known.date))
