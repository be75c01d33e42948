-- Returns merchants' days whose running totals may be wrong, oldest mark first.
-- $1 limit
select merchant_id, date
from usage_stale_totals
order by marked_at
limit $1
