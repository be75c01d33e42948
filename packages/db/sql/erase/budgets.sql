-- Renames the user of removed budgets; there are no active ones.
-- $1 merchant   $2 user   $3 pseudonym
update budgets set user_id = $3 where merchant_id = $1 and user_id = $2
