-- Returns the metric types of a merchant, in order of name.
-- $1 merchant   $2 limit
select distinct metric_type
from merchant_usage
where merchant_id = $1
order by 1
limit $2
