-- Raises the versions of merchants' days, and of their months, like a change.
-- $1 merchant ids   $2 first date   $3 last date
insert into usage_changes as old (grain, period, merchant_id)
select grain, period, merchant_id
from (
  select 'day' as grain, date::date as period, merchant_id
  from unnest($1::text[]) as merchant_id, generate_series($2::date, $3::date, interval '1 day') as date
  union
  select 'month', date_trunc('month', date)::date, merchant_id
  from unnest($1::text[]) as merchant_id, generate_series($2::date, $3::date, interval '1 day') as date
) as touched
order by 1, 2, 3
on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
returning grain
