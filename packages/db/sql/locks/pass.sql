-- Waits until no other connection has an advisory lock, shared or not, and does not keep it.
-- $1 number
-- Both in one list: nothing can cancel the statement between them, which would leave the lock on the connection.
select pg_advisory_lock($1), pg_advisory_unlock($1)
