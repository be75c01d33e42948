-- Days of merchants whose totals in Redis may be wrong, those that wait longest first.
-- $1 how many
select merchant_id, date
from usage_stale_totals
order by marked_at
limit $1
