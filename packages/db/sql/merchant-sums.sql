-- Returns the sums of some merchants' days.
-- $1 merchants   $2 first date   $3 last date
select merchant_id, date, metric_type, metric_value
from merchant_usage
where merchant_id = any($1::text[]) and date between $2 and $3
