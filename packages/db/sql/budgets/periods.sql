-- Returns the previous, current and next period of each kind of budgets at a moment: budgets of one kind of period and
-- zone share their periods.
-- $1 moment
with current as materialized (
  select
    period, time_zone, budget_period_start(period, $1, time_zone) as start,
    budget_period_end(period, $1, time_zone) as ends
  from (select distinct period, time_zone from budgets where removed_at is null) as kinds
)
select period, time_zone, start, ends from current
union all
select period, time_zone, ends, budget_period_end(period, ends, time_zone)
from current
where ends is not null
union all
select period, time_zone, budget_period_start(period, start - interval '1 microsecond', time_zone), start
from current
where ends is not null
order by period, time_zone, start
