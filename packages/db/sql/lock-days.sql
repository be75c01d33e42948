-- Takes the locks of some days for the transaction, in order, so that two transactions never deadlock.
-- $1 kind of lock   $2 days
select count(pg_advisory_xact_lock($1, date - '2000-01-01'))
from (select date from unnest($2::date[]) as date order by date) as ordered
