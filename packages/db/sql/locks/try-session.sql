-- Takes an advisory lock for the connection, unless another connection holds it.
-- $1 number
select pg_try_advisory_lock($1) as held
