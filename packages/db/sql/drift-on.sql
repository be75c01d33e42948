-- What reconciliations found on a UTC day.
-- $1 day
select numbers, examples
from drift_days
where found_on = $1
