-- Returns the next day to roll up, and merchants of it, in order; none if the day has no others.
-- $1 the first day that is not over   $2 merchants at most   $3 rows of `usage_daily` at most; always at least one
-- merchant
-- Returns no row if no day before $1 has usage that is not rolled up.
with day as materialized (
  -- Continues a day that was begun.
  select
    case when merchant_id <> '' then date
    else (select min(used.date) from usage_daily as used where used.date >= (select date from usage_rolled_up))
    end as date,
    merchant_id as after
  from usage_rolled_up
),
changed as materialized (
  select merchant_id
  from usage_changes
  where grain = 'day' and period = (select date from day) and merchant_id > (select after from day)
  order by merchant_id
  limit $2
),
counts as materialized (
  select merchant_id, count(*)
  from usage_daily
  where merchant_id = any(array(select merchant_id from changed)) and date = (select date from day)
  group by 1
),
merchants as materialized (
  select changed.merchant_id, coalesce(counts.count, 0) as count
  from changed
  left join counts on counts.merchant_id = changed.merchant_id
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
