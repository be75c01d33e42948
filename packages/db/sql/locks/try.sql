-- Takes an advisory lock for the transaction, unless another one holds it.
-- $1 number
select pg_try_advisory_xact_lock($1) as held
