-- Returns a page of the copies of a merchant's realtime metrics that have not expired.
-- $1 merchant   $2 now, in milliseconds   $3 to $5 name, labels and slice of the last one before the page   $6 limit
select *
from realtime_metrics_cache
where merchant_id = $1
  and expires_at > to_timestamp($2::bigint / 1000.0)
  and ($3::text is null or (name, labels, slice) > ($3, $4::text, $5::bigint))
order by name, labels, slice
limit $6
