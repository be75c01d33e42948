-- Computes the spend of a new budget in the period of a moment: whole UTC days from the daily rollup, a day on which
-- the period begins from the journal. Nothing of its merchants may be counted meanwhile.
-- $1 budget   $2 moment
with period as materialized (
  select
    budget.*,
    case period when 'total' then to_timestamp(0) else date_trunc(period, $2::timestamptz, time_zone) end as start,
    case period
      when 'total' then null
      when 'hour' then date_trunc('hour', $2::timestamptz, time_zone) + interval '1 hour'
      else date_trunc(
        period,
        ((date_trunc(period, $2::timestamptz, time_zone) at time zone time_zone) + ('1 ' || period)::interval)
          at time zone time_zone,
        time_zone)
    end as ends
  from budgets as budget
  where id = $1
),
edges as materialized (
  select
    *,
    -- Whole UTC days of the period start here; a period within a day has none.
    (start at time zone 'UTC' + interval '1 day' - interval '1 microsecond')::date as first_whole,
    (start at time zone 'UTC')::date as first_day,
    (coalesce(ends, $2::timestamptz + interval '2 days') at time zone 'UTC')::date as last_day
  from period
),
parts as (
  select
    case edges.measure
      when 'cost' then daily.cost when 'requests' then daily.requests else daily.prompt_tokens + daily.completion_tokens
    end as units
  from edges
  join usage_daily as daily
    on daily.date >= edges.first_whole and (daily.date < edges.last_day or edges.ends is null)
      and (edges.merchant_id = '' or daily.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or daily.user_id = edges.user_id)
      and (edges.api_key = '' or daily.api_key = edges.api_key)
      and (edges.model = '' or daily.model = edges.model)
  union all
  select
    case edges.measure
      when 'cost' then event.cost when 'requests' then event.requests else event.prompt_tokens + event.completion_tokens
    end
  from edges
  join usage_events as event
    on ((event.date = edges.first_day and edges.first_day < edges.first_whole) or event.date = edges.last_day)
      and edges.ends is not null
      and event.time >= edges.start and event.time < edges.ends
      and (edges.merchant_id = '' or event.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or event.user_id = edges.user_id)
      and (edges.api_key = '' or event.api_key = edges.api_key)
      and (edges.model = '' or event.model = edges.model)
  union all
  -- An adjustment counts at the start of its day; those of whole days are in the daily rollup.
  select
    case edges.measure
      when 'cost' then cost when 'requests' then requests else prompt_tokens + completion_tokens
    end
  from edges
  join usage_adjustments as adjustment
    on adjustment.date = edges.last_day and edges.ends is not null
      and edges.last_day::timestamp at time zone 'UTC' >= edges.start
      and edges.last_day::timestamp at time zone 'UTC' < edges.ends
      and (edges.merchant_id = '' or adjustment.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or adjustment.user_id = edges.user_id)
      and (edges.api_key = '' or adjustment.api_key = edges.api_key)
      and (edges.model = '' or adjustment.model = edges.model)
)
insert into budget_spend (budget_id, period_start, units)
select edges.id, edges.start, coalesce((select sum(units) from parts), 0)
from edges
