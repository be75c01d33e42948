-- Releases the connection's advisory lock of one object.
-- $1 object   $2 number of the lock
select pg_advisory_unlock(hashtextextended($1, $2))
