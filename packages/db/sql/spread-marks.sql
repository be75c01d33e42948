-- Marks as stale the daily, weekly and monthly periods of changed days, and the periods after them, whose growth
-- changes.
-- Returns the marks that it read; clear-marks.sql clears them in the same transaction.
-- $1 the day before which marks are read   $2 ISO weekday that weeks begin with
with marks as materialized (
  select merchant_id, date, xmin::text as version
  from usage_touched_days
  where date < $1::date
),
starts as (
  select
    merchant_id, date as day,
    date - (extract(isodow from date)::int - $2::int + 7) % 7 as week,
    date_trunc('month', date)::date as month
  from marks
),
stale as (
  insert into metrics_stale_periods (grain, period_start, merchant_id)
  select distinct period.grain, period.start, starts.merchant_id
  from starts
  cross join lateral (values
    ('daily', day), ('daily', day + 1), ('weekly', week), ('weekly', week + 7),
    ('monthly', month), ('monthly', (month + interval '1 month')::date)
  ) as period (grain, start)
  -- A period in the future has no growth to change.
  where period.start < $1::date
  order by 1, 2, 3
  on conflict do nothing
)
select merchant_id, date, version
from marks
