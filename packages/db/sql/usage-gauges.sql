-- Returns the sums of a day and of the month up to it, per merchant and metric type, for the merchants that counted
-- most often.
-- $1 first day of the month   $2 the day   $3 merchant ids, null for all   $4 merchants at most   $5 rows at most
with chosen as materialized (
  select merchant_id
  from usage_changes
  where grain = 'month' and period = $1 and merchant_id <> '' and ($3::text[] is null or merchant_id = any($3))
  order by changes desc, merchant_id
  limit $4
)
select
  merchant_id, metric_type,
  coalesce(sum(metric_value) filter (where date = $2), 0) as today,
  sum(metric_value) as month
from chosen
join merchant_usage using (merchant_id)
where date between $1 and $2
group by merchant_id, metric_type
order by merchant_id, metric_type
limit $5
