-- Returns the next quarter of a month whose days are all rolled up, and merchants of it, in order; none if the quarter has
-- no others.
-- $1 merchants at most   $2 rows of `usage_daily` at most; always at least one merchant
-- Returns no row if no such quarter is left.
with quarter as materialized (
  -- Continues a quarter that was begun; passes quarters without usage.
  select
    case when quarter_merchant <> '' then quarter_month
    else usage_quarter_month(least(date, (
      select min(used.date) from usage_daily as used where used.date >= (select quarter_month from usage_rolled_up))))
    end as period,
    quarter_merchant as after,
    date as open
  from usage_rolled_up
  where quarters_after <= date
),
changed as materialized (
  select merchant_id
  from usage_changes
  where grain = 'month' and period = (select date_trunc('month', period)::date from quarter)
    and merchant_id > (select after from quarter)
  order by merchant_id
  limit $1
),
counts as materialized (
  select merchant_id, count(*)
  from usage_daily
  where merchant_id = any(array(select merchant_id from changed))
    and date between (select period from quarter) and (select period + 8 from quarter)
  group by 1
),
merchants as materialized (
  select changed.merchant_id, coalesce(counts.count, 0) as count
  from changed
  left join counts on counts.merchant_id = changed.merchant_id
)
select
  period, usage_quarter_month(period + 9) as next,
  array(
    select merchant_id
    from (select *, sum(count) over (order by merchant_id) - count as before from merchants) as slice
    where before = 0 or before + count <= $2
    order by merchant_id
  ) as merchants
from quarter
where usage_quarter_month(period + 9) <= open
