-- Returns a page of merchants' days that changed since reconciliation last found them correct, with their versions.
-- $1 first date   $2 last date   $3, $4 last date and merchant before the page   $5 limit
select day.merchant_id, day.period as date, day.changes
from usage_changes as day
left join usage_checks as done on done.date = day.period and done.merchant_id = day.merchant_id
where day.grain = 'day'
  and day.period between $1 and $2
  and (day.period, day.merchant_id) > ($3::date, $4::text)
  and done.changes is distinct from day.changes
order by day.period, day.merchant_id
limit $5
