-- Returns whether a period of a grain that begins in a range is stale, or has a changed day.
-- $1 grain   $2 first day   $3 last day   $4 days of the longest period, less one
select
  exists (select from metrics_stale_periods where grain = $1 and period_start between $2 and $3)
  or exists (select from usage_touched_days where date between $2 and $3::date + $4::int) as found
