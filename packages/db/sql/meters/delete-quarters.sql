-- Deletes quarter hours of a merchant of some meters.
-- $1 ids of meters   $2 merchant   $3 start of the first   $4 end of the last
delete from meter_quarters
where meter_id = any($1) and merchant_id = $2 and bucket >= $3::timestamptz and bucket < $4::timestamptz
