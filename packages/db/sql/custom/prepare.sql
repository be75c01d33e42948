-- Prepares a transaction for a formula: the merchant whose rows it sees, and its time limit.
-- $1 merchant, '*' for all   $2 milliseconds
select
  set_config('tally.merchant_id', $1, true),
  set_config('statement_timeout', $2, true),
  set_config('jit', 'off', true)
