-- Merchants' days with some metric types.
-- $1 first day   $2 last day   $3 merchants, or null for all   $4 metric types
select merchant_id, date, metric_type
from merchant_usage
where date between $1::date and $2::date and ($3::text[] is null or merchant_id = any($3)) and metric_type = any($4)
