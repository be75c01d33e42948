-- Limits the waits of the transaction that closes a day.
-- $1 longest wait for a lock   $2 longest statement
select set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)
