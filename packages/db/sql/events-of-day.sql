-- How many events the journal has of a day.
-- $1 day
select count(*)::int as events
from usage_events
where date = $1
