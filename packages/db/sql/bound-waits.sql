-- Bounds the waits of a transaction that holds flush locks, so that no hung holder can stop the others for long.
-- $1 how long a lock is waited for   $2 how long the transaction may wait for its client
select set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true)
