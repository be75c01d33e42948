-- Merchants with usage in a range of dates.
-- $1 first date   $2 last date
select distinct merchant_id from merchant_usage where date between $1 and $2 order by 1
