-- Releases an advisory lock of the connection.
-- $1 number
select pg_advisory_unlock($1)
