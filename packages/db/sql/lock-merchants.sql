-- Takes the flush locks of merchants until the end of the transaction, in one order, so that nobody deadlocks.
-- $1 merchant ids
select pg_advisory_xact_lock(key)
from (
  select distinct hashtextextended(merchant_id, 7421) as key
  from unnest($1::text[]) as merchant_id
  order by key
) as keys
