-- Marks a merchant's month as changed, for cached answers that read the month as a whole.
-- $1 merchant id   $2 first day of the month
update usage_changes set changes = changes + 1 where grain = 'month' and period = $2 and merchant_id = $1
