-- Takes the advisory lock of one object for the connection, unless another connection holds it.
-- $1 object   $2 number of the lock
select pg_try_advisory_lock(hashtextextended($1, $2)) as held
