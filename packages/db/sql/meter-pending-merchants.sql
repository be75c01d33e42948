-- Returns merchants with events of a day that are not yet added to the rollups of meters.
-- $1 merchants   $2 date
select distinct event.merchant_id
from usage_flushes as flush
join usage_events as event on event.flush_id = flush.id and event.date = $2::date and event.merchant_id = any($1::text[])
where flush.metered is null and $2::date between flush.first_date and flush.last_date
