-- Returns merchants with events or adjustments of a day, or with rows of a meter.
-- $1 date   $2 merchants, null for all   $3 id of the meter   $4 start of the day
select merchant_id from usage_events where date = $1 and ($2::text[] is null or merchant_id = any($2))
union
select merchant_id from usage_adjustments where date = $1 and ($2::text[] is null or merchant_id = any($2))
union
select merchant_id from meter_days
where meter_id = $3 and date = $1 and ($2::text[] is null or merchant_id = any($2))
union
select merchant_id from meter_quarters
where meter_id = $3 and bucket >= $4::timestamptz and bucket < $4::timestamptz + interval '1 day'
  and ($2::text[] is null or merchant_id = any($2))
