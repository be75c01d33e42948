-- Counts the events of a day in the journal.
-- $1 day
select count(*)::int as events
from usage_events
where date = $1
