-- Returns the closed days among some days.
-- $1 dates
select date
from usage_closed_days
where date = any($1::date[])
order by date
