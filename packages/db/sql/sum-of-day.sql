-- Sums some metric types of a day, of one merchant or of all. Null if none of them was counted.
-- $1 date   $2 metric types   $3 merchant; null: all
select sum(metric_value)::text as sum
from merchant_usage
where date = $1 and metric_type = any($2::text[]) and ($3::text is null or merchant_id = $3)
