-- Returns the previous, current and next period of every active budget at a moment, with the spend of each.
-- $1 moment
-- Budgets of one kind of period and zone share their periods, so these are computed once for all.
with current as materialized (
  select
    period, time_zone, budget_period_start(period, $1, time_zone) as start,
    budget_period_end(period, $1, time_zone) as ends
  from (select distinct period, time_zone from budgets where removed_at is null) as kinds
),
periods as materialized (
  select period, time_zone, start, ends from current
  union all
  select period, time_zone, ends, budget_period_end(period, ends, time_zone)
  from current
  where ends is not null
  union all
  select period, time_zone, budget_period_start(period, start - interval '1 microsecond', time_zone), start
  from current
  where ends is not null
)
select id, start, ends, coalesce(units, 0)::text as units
from budgets
join periods using (period, time_zone)
left join budget_spend on budget_id = id and period_start = start
where removed_at is null
order by id, start
