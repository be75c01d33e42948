-- Returns a page of the stored values of a custom metric, newest first. `at`: microseconds.
-- $1 definition   $2 merchant, null for all   $3 limit
-- $4 to $8 the last value before the page, null to begin: its `at`, version, merchant, first and last day
select values.*, moment.at::text as at
from custom_metric_values as values,
  lateral (select (extract(epoch from calculated_at) * 1000000)::bigint as at) as moment
where definition_id = $1 and ($2::text is null or merchant_id = $2)
  and ($4::bigint is null
    or (moment.at, version, merchant_id, period_start, period_end)
      < ($4::bigint, $5::int, $6::text, $7::date, $8::date))
order by moment.at desc, version desc, merchant_id desc, period_start desc, period_end desc
limit $3
