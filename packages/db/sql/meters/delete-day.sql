-- Deletes a merchant's day of some meters.
-- $1 ids of meters   $2 merchant   $3 date
delete from meter_days where meter_id = any($1) and merchant_id = $2 and date = $3
