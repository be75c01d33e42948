-- Returns the previous, current and next period of every active budget at a moment, with the spend of each.
-- $1 moment
with current as materialized (
  select
    id, period, time_zone,
    case period when 'total' then to_timestamp(0) else date_trunc(period, $1::timestamptz, time_zone) end as start
  from budgets
  where removed_at is null
),
after as materialized (
  select
    *,
    case period
      when 'total' then null
      when 'hour' then start + interval '1 hour'
      else date_trunc(
        period, ((start at time zone time_zone) + ('1 ' || period)::interval) at time zone time_zone, time_zone)
    end as ends
  from current
),
periods as (
  select id, start, ends from after
  union all
  select
    id, ends,
    case period
      when 'hour' then ends + interval '1 hour'
      else date_trunc(
        period, ((ends at time zone time_zone) + ('1 ' || period)::interval) at time zone time_zone, time_zone)
    end
  from after
  where ends is not null
  union all
  select id, date_trunc(period, start - interval '1 microsecond', time_zone), start
  from after
  where ends is not null
)
select id, start, ends, coalesce(units, 0)::text as units
from periods
left join budget_spend on budget_id = id and period_start = start
order by id, start
