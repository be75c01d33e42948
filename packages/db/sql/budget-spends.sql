-- Returns the previous, current and next period of every active budget at a moment, with the spend of each.
-- $1 moment
with current as materialized (
  select
    id, period, time_zone, budget_period_start(period, $1, time_zone) as start,
    budget_period_end(period, $1, time_zone) as ends
  from budgets
  where removed_at is null
),
periods as (
  select id, start, ends from current
  union all
  select id, ends, budget_period_end(period, ends, time_zone)
  from current
  where ends is not null
  union all
  select id, budget_period_start(period, start - interval '1 microsecond', time_zone), start
  from current
  where ends is not null
)
select id, start, ends, coalesce(units, 0)::text as units
from periods
left join budget_spend on budget_id = id and period_start = start
order by id, start
