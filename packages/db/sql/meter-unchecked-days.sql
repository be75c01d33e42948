-- Returns a page of merchants' days that changed since reconciliation last found their meters correct, with their versions
-- and numbers of events.
-- $1 first date   $2 last date   $3, $4 last date and merchant before the page   $5 limit
with page as materialized (
  select day.merchant_id, day.period as date, day.changes
  from usage_changes as day
  left join meter_checks as done on done.date = day.period and done.merchant_id = day.merchant_id
  where day.grain = 'day'
    and day.period between $1 and $2
    and (day.period, day.merchant_id) > ($3::date, $4::text)
    and done.changes is distinct from day.changes
  order by day.period, day.merchant_id
  limit $5
)
select merchant_id, date, changes, coalesce(events, 0) as events
from page
left join (
  select merchant_id, date, count(*) as events
  from usage_events
  where date = any(array(select date from page)) and merchant_id = any(array(select merchant_id from page))
  group by merchant_id, date
) as counted using (merchant_id, date)
order by date, merchant_id
