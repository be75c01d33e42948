-- Takes these days' locks for the transaction, in one order, so that two never wait for each other.
-- $1 which kind of lock   $2 days
select count(pg_advisory_xact_lock($1, date - '2000-01-01'))
from (select date from unnest($2::date[]) as date order by date) as ordered
