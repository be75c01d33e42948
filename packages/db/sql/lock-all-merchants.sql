-- Takes the locks of all merchants exclusively for one transaction, in order.
-- $1 seed   $2 locks
select pg_advisory_xact_lock($1, lock) from generate_series(0, $2 - 1) as lock order by lock
