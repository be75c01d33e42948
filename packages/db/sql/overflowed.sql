-- Returns whether a dimension exceeded its limit of values on a day.
-- $1 first date   $2 last date   $3 merchant ids, null for all   $4 dimensions
select exists (
  select
  from usage_overflows
  where date between $1 and $2 and ($3::text[] is null or merchant_id = any($3)) and dimension = any($4::smallint[])
) as found
