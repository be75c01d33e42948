-- Returns the newest stored values of a custom metric.
-- $1 definition   $2 merchant, null for all   $3 limit
select *
from custom_metric_values
where definition_id = $1 and ($2::text is null or merchant_id = $2)
order by calculated_at desc, version desc, period_start desc
limit $3
