-- Returns the merchants whose running totals may be wrong.
select distinct merchant_id
from usage_stale_totals
