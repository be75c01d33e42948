-- Releases the advisory lock of one thing among many.
-- $1 what is locked   $2 number of the lock
select pg_advisory_unlock(hashtextextended($1, $2))
