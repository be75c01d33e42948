-- Waits until nobody holds an advisory lock exclusively, and shares it until the transaction ends.
-- $1 number
select pg_advisory_xact_lock_shared($1)
