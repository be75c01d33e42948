-- Marks a merchant's days as changed, for derivations and cached answers.
-- $1 merchant id   $2 days
with changed as (
  insert into usage_changes as old (grain, period, merchant_id)
  select grain, period, $1
  from (
    select 'day' as grain, date as period from unnest($2::date[]) as date
    union
    select 'month', date_trunc('month', date)::date from unnest($2::date[]) as date
  ) as periods
  order by 1, 2
  on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_fill($1::text, array[cardinality($2::date[])]), $2
)
insert into usage_touched_days as old (merchant_id, date)
select $1, date
from unnest($2::date[]) as date
order by 2
on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
