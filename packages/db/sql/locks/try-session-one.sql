-- Takes the advisory lock of one thing among many for the connection, unless another connection holds it.
-- $1 what is locked   $2 number of the lock
select pg_try_advisory_lock(hashtextextended($1, $2)) as held
