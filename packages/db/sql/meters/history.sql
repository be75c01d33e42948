-- Counts the days of the history of some meters, and those already computed.
-- $1 ids of meters
select meter_id, count(*)::int as days, (count(*) filter (where done))::int as done
from meter_history
where meter_id = any($1)
group by 1
