-- Takes the flush locks that are free; returns the merchants whose lock is now held.
-- $1 merchant ids
select merchant_id
from unnest($1::text[]) as merchant_id
where pg_try_advisory_xact_lock(hashtextextended(merchant_id, 7421))
