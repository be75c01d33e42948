-- Renames a user in adjustments.
-- $1 merchant   $2 user   $3 pseudonym
update usage_adjustments set user_id = $3 where merchant_id = $1 and user_id = $2
