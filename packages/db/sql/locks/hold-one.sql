-- Waits for the advisory lock of one thing among many; the transaction holds it until it ends.
-- $1 what is locked   $2 number of the lock
select pg_advisory_xact_lock(hashtextextended($1, $2))
