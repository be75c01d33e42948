-- Waits until nobody holds an advisory lock exclusively, and shares it until the connection releases it.
-- $1 number
select pg_advisory_lock_shared($1)
