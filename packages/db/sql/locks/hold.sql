-- Waits for an advisory lock; the transaction holds it until it ends.
-- $1 number
select pg_advisory_xact_lock($1)
