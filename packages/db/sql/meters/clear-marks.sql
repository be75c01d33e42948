-- Removes the marks of folded periods.
-- $1 merchants   $2 period of each   $3 grain
delete from meter_marks as mark
using unnest($1::text[], $2::date[]) as wanted (merchant_id, period)
where mark.merchant_id = wanted.merchant_id and mark.grain = $3 and mark.period = wanted.period
