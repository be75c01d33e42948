-- Counts the events of merchants on a day.
-- $1 merchants   $2 date
select merchant_id, count(*) as events
from usage_events
where date = $2 and merchant_id = any($1::text[])
group by 1
