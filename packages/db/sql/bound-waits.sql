-- Limits the waits of a transaction that holds locks, so that a hung holder cannot stop the others for long, and gives
-- it memory to sort a batch.
-- $1 longest wait for a lock   $2 longest wait for its client   $3 memory of one sort
select
  set_config('lock_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
  set_config('work_mem', $3, true)
