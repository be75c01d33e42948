-- Which of these days are closed.
-- $1 dates
select date
from usage_closed_days
where date = any($1::date[])
order by date
