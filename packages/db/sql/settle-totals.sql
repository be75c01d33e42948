-- Clears the mark of a merchant's day whose running totals were compared.
-- $1 merchant   $2 day   $3 time; a later mark stays
delete from usage_stale_totals
where merchant_id = $1 and date = $2 and marked_at <= $3
