-- Recounts a merchant's rows of a month, of its quarters and of its year, for plans.
-- $1 merchant   $2 first day of the month   $3 first day of the year
with counted as (
  select 'usage_monthly' as rollup, $2::date as period, count(*) as rows
  from usage_monthly
  where merchant_id = $1 and month = $2
  union all
  select 'usage_quarter_months', period, (
    select count(*) from usage_quarter_months where merchant_id = $1 and quarter_month = period)
  from unnest(array[$2::date, $2::date + 8, $2::date + 15, $2::date + 22]) as period
  union all
  select 'usage_yearly', $3::date, count(*)
  from usage_yearly
  where merchant_id = $1 and year = $3
),
changed as (
  select rollup, period, counted.rows - coalesce(known.rows, 0) as more
  from counted
  left join (select rollup, period, rows from usage_rollup_rows where merchant_id = $1) as known using (rollup, period)
)
insert into usage_rollup_rows as old (merchant_id, rollup, period, rows)
select merchant_id, rollup, period, more
from changed
cross join unnest(array['', $1::text]) as merchant_id
where more <> 0
order by 1, 2, 3
on conflict (merchant_id, rollup, period) do update set rows = old.rows + excluded.rows
