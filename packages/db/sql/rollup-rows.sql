-- Estimates how many rows rollups have, for plans: of a month and a year those that derivations counted, of a day at most
-- its requests.
-- $1 merchant ids, null for all   $2 first day of the first year   $3 last day   $4 months whose days are asked for
select rollup, period::text as period, sum(rows)::text as rows
from usage_rollup_rows
where merchant_id = any(coalesce($1::text[], '{""}')) and rollup in ('usage_monthly', 'usage_yearly')
  and period between $2::date and $3::date
group by 1, 2
union all
select 'usage_daily', date::text, sum(metric_value)::text
from unnest($4::date[]) as month
join merchant_usage on date >= month and date < (month + interval '1 month')::date
where merchant_id = any($1::text[]) and metric_type = 'requests'
group by 2
union all
select 'usage_daily', date::text, sum(requests)::text
from unnest($4::date[]) as month
join usage_platform_daily on date >= month and date < (month + interval '1 month')::date
where $1::text[] is null
group by 2
