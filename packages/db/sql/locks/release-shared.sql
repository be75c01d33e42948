-- Releases the connection's share of an advisory lock.
-- $1 number
select pg_advisory_unlock_shared($1)
