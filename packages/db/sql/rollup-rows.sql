-- Estimates the rows of rollups, for plans: counted rows of months, their quarters and years, and for a day at most its requests.
-- Months with days that are not rolled up are always among those whose days are read.
-- $1 merchant ids, null for all   $2 first day of the first year   $3 last day   $4 months whose quarters and days are read
-- The row `open` names the first day that is not rolled up, the row `quarter` the first
-- quarter of a month that is not complete.
with months as materialized (
  select month from unnest($4::date[]) as month
  union
  select month::date
  from generate_series(
    (select date_trunc('month', date) from usage_rolled_up), $3::date::timestamptz, interval '1 month'
  ) as month
)
select rollup, period::text as period, sum(rows)::text as rows
from usage_rollup_rows
where merchant_id = any(coalesce($1::text[], '{""}')) and rollup in ('usage_monthly', 'usage_yearly')
  and period between $2::date and $3::date
group by 1, 2
union all
select rollup, period::text, sum(rows)::text
from months
join usage_rollup_rows on period >= month and period < (month + interval '1 month')::date
where merchant_id = any(coalesce($1::text[], '{""}')) and rollup = 'usage_quarter_months'
group by 1, 2
union all
select 'usage_daily', date::text, sum(metric_value)::text
from months
join merchant_usage on date >= month and date < (month + interval '1 month')::date
where merchant_id = any($1::text[]) and metric_type = 'requests'
group by 2
union all
select 'usage_daily', date::text, sum(requests)::text
from months
join usage_platform_daily on date >= month and date < (month + interval '1 month')::date
where $1::text[] is null
group by 2
union all
select 'open', date::text, '0'
from usage_rolled_up
union all
select 'quarter', quarter_month::text, '0'
from usage_rolled_up
