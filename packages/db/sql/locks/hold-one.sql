-- Waits for the advisory lock of one object; the transaction holds it until it ends.
-- $1 object   $2 number of the lock
select pg_advisory_xact_lock(hashtextextended($1, $2))
