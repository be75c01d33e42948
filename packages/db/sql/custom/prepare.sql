-- Prepares a transaction for a formula: whose rows it sees, and how long it may take.
-- $1 merchant, '*' for all   $2 milliseconds
select
  set_config('tally.merchant_id', $1, true),
  set_config('statement_timeout', $2, true),
  set_config('jit', 'off', true)
