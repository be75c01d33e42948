-- Removes old audit steps of custom metrics, and values of removed metrics. Values of active metrics stay, since they
-- cannot be computed again once their events are gone.
-- $1 first day that is kept   $2 limit per table
with steps as (
  delete from custom_metric_audit
  where id in (select id from custom_metric_audit where at < $1::date order by id limit $2)
  returning 1
),
removed_values as (
  delete from custom_metric_values
  where ctid in (
    select held.ctid
    from custom_metric_values as held
    join custom_metric_definitions as definition on definition.id = held.definition_id
    where definition.removed_at < $1::date
    limit $2
  )
  returning 1
)
select (select count(*) from steps) + (select count(*) from removed_values) as removed
