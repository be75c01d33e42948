-- Returns the next day to roll up, and merchants of it, in order; none if the day has no others.
-- $1 the first day that is not over   $2 merchants at most   $3 rows of `usage_daily` at most; always at least one
-- merchant
-- Returns no row if no day before $1 has usage that is not rolled up.
with day as materialized (
  -- Continues a day that was begun.
  select
    case when merchant_id <> '' then date
    else (select min(used.date) from usage_daily as used where used.date >= usage_rolled_up.date)
    end as date,
    merchant_id as after
  from usage_rolled_up
),
merchants as materialized (
  select change.merchant_id, rows.count
  from day
  cross join lateral (
    select merchant_id
    from usage_changes
    where grain = 'day' and period = day.date and merchant_id > day.after
    order by merchant_id
    limit $2
  ) as change
  cross join lateral (
    select count(*) from usage_daily where usage_daily.merchant_id = change.merchant_id and usage_daily.date = day.date
  ) as rows
)
select
  date,
  array(
    select merchant_id
    from (select *, sum(count) over (order by merchant_id) - count as before from merchants) as slice
    where before = 0 or before + count <= $3
    order by merchant_id
  ) as merchants
from day
where date < $1
