-- Removes ended deliveries and firings from before a day.
-- $1 day
with deliveries as (
  delete from webhook_deliveries where status <> 'pending' and created_at < $1::date returning id
),
firings as (
  delete from alert_firings where fired_at < $1::date and period_start < $1::date returning id
)
select ((select count(*) from deliveries) + (select count(*) from firings))::int as removed
