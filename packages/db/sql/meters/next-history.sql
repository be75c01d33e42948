-- Returns the day of a meter's history to compute next, newest first, and the last merchant computed on it.
select meter_id, date, after_merchant
from meter_history
where not done
order by date desc, meter_id
limit 1
