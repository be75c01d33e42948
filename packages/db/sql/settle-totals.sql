-- Clears marks of merchants' days whose running totals were compared.
-- $1 merchants   $2 days, one per merchant   $3 time; later marks stay
delete from usage_stale_totals as mark
using unnest($1::text[], $2::date[]) as compared (merchant_id, date)
where mark.merchant_id = compared.merchant_id and mark.date = compared.date and mark.marked_at <= $3
