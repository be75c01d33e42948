-- Returns the first and last day of a range whose events were dropped from the journal.
-- $1 first day   $2 last day
select min(date) as first, max(date) as last
from usage_closed_days
where date between $1 and $2 and entries > 0
