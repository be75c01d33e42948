-- Bounds the waits of a transaction that holds locks, so that no hung holder can stop the others for long, and lets it sort
-- a batch in memory.
-- $1 how long a lock is waited for   $2 how long the transaction may wait for its client   $3 memory of one sort
select
  set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
  set_config('work_mem', $3, true)
