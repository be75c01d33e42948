-- Renames a user in `daily_metrics`; an existing row of the pseudonym is newer, and stays.
-- $1 merchant   $2 user   $3 pseudonym
with known as (
  select period_start, metric_type
  from daily_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $3
),
removed as (
  delete from daily_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $2
    and (period_start, metric_type) in (select period_start, metric_type from known)
)
update daily_metrics
set entity_id = $3
where merchant_id = $1 and entity_type = 'user' and entity_id = $2
  and (period_start, metric_type) not in (select period_start, metric_type from known)
