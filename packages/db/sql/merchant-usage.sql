-- Returns rows of `merchant_usage`, which billing reads.
-- $1 merchant ids, null for all   $2 first date   $3 last date   $4 metric types, null for all
select merchant_id, date, metric_type, metric_value
from merchant_usage
where ($1::text[] is null or merchant_id = any($1))
  and date between $2 and $3
  and ($4::text[] is null or metric_type = any($4))
order by merchant_id, date, metric_type
