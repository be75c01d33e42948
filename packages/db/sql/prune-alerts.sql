-- Removes ended deliveries and firings from before a time.
-- $1 time
with deliveries as (
  delete from webhook_deliveries where status <> 'pending' and created_at < $1 returning id
),
firings as (
  delete from alert_firings where fired_at < $1 and period_start < $1 returning id
)
select ((select count(*) from deliveries) + (select count(*) from firings))::int as removed
