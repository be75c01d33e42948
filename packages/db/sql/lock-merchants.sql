-- Takes the locks of merchants exclusively for one transaction, in order, so that two transactions never deadlock.
-- $1 seed   $2 locks   $3 merchant ids
select pg_advisory_xact_lock($1, lock)
from (
  select distinct (hashtextextended(merchant_id, 0) & ($2 - 1))::int as lock
  from unnest($3::text[]) as merchant_id
  order by lock
) as locks
