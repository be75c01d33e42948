-- Releases the connection's advisory lock.
-- $1 number
select pg_advisory_unlock($1)
