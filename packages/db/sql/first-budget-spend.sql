-- Computes the spend of a new budget in the period of a moment. Of a measure: whole UTC days from the daily rollup,
-- days at the edges of the period from the journal. Values of its scope that the rollup has under `(other)`, and a meter:
-- from the journal, as far as it is kept. Nothing of its merchants may be counted meanwhile.
-- $1 budget   $2 moment
with period as materialized (
  select
    budget.*,
    budget_period_start(period, $2, time_zone) as start,
    budget_period_end(period, $2, time_zone) as ends
  from budgets as budget
  where id = $1
),
edges as materialized (
  select
    *,
    -- Whole UTC days of the period start here; a period within a day has none.
    (start at time zone 'UTC' + interval '1 day' - interval '1 microsecond')::date as first_whole,
    (start at time zone 'UTC')::date as first_day,
    (coalesce(ends, $2::timestamptz + interval '2 days') at time zone 'UTC')::date as last_day,
    -- Dimensions that the scope looks at, as bits of `folded`; a team looks at users and keys.
    case when user_id <> '' or team <> '' then 1 else 0 end
      | case when api_key <> '' or team <> '' then 2 else 0 end
      | case when model <> '' then 4 else 0 end as looks_at
  from period
),
parts as (
  select
    case when edges.team <> '' then daily.merchant_id end as merchant_id,
    case when edges.team <> '' then daily.api_key end as api_key,
    case when edges.team <> '' then daily.user_id end as user_id,
    case edges.measure
      when 'cost' then daily.cost when 'requests' then daily.requests else daily.prompt_tokens + daily.completion_tokens
    end as units
  from edges
  join usage_daily as daily
    on edges.measure <> 'meter'
      and daily.date >= edges.first_whole and (daily.date < edges.last_day or edges.ends is null)
      and (edges.merchant_id = '' or daily.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or daily.user_id = edges.user_id)
      and (edges.api_key = '' or daily.api_key = edges.api_key)
      and (edges.model = '' or daily.model = edges.model)
      and (edges.team = '' or (daily.user_id <> '(other)' and daily.api_key <> '(other)'))
  union all
  -- Found by the first of the dimensions in which they count under `(other)`.
  select
    case when edges.team <> '' then event.merchant_id end as merchant_id,
    case when edges.team <> '' then event.api_key end as api_key,
    case when edges.team <> '' then event.user_id end as user_id,
    case edges.measure
      when 'cost' then event.cost when 'requests' then event.requests else event.prompt_tokens + event.completion_tokens
    end
  from edges
  join usage_overflows as overflow
    on edges.measure <> 'meter'
      and overflow.date >= edges.first_whole and (overflow.date < edges.last_day or edges.ends is null)
  join usage_events as event
    on event.merchant_id = overflow.merchant_id and event.date = overflow.date
      and 1 << overflow.dimension = (event.folded & edges.looks_at) & -(event.folded & edges.looks_at)
      and (edges.merchant_id = '' or event.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or event.user_id = edges.user_id)
      and (edges.api_key = '' or event.api_key = edges.api_key)
      and (edges.model = '' or event.model = edges.model)
  left join usage_adjustments as void
    on void.merchant_id = event.merchant_id and void.date = event.date and void.void_of = event.id
  where void.id is null
  union all
  select
    case when edges.team <> '' then adjustment.merchant_id end as merchant_id,
    case when edges.team <> '' then adjustment.api_key end as api_key,
    case when edges.team <> '' then adjustment.user_id end as user_id,
    case edges.measure when 'cost' then cost when 'requests' then requests else prompt_tokens + completion_tokens end
  from edges
  join usage_adjustments as adjustment
    on edges.measure <> 'meter' and adjustment.void_of is null
      and adjustment.date >= edges.first_whole and (adjustment.date < edges.last_day or edges.ends is null)
      and adjustment.folded & edges.looks_at <> 0
      and (edges.merchant_id = '' or adjustment.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or adjustment.user_id = edges.user_id)
      and (edges.api_key = '' or adjustment.api_key = edges.api_key)
      and (edges.model = '' or adjustment.model = edges.model)
  union all
  select
    case when edges.team <> '' then event.merchant_id end as merchant_id,
    case when edges.team <> '' then event.api_key end as api_key,
    case when edges.team <> '' then event.user_id end as user_id,
    case edges.measure
      when 'cost' then event.cost
      when 'requests' then event.requests
      when 'tokens' then event.prompt_tokens + event.completion_tokens
      else budget_meter_units(
        edges.meter, event.requests, event.failed_requests, event.prompt_tokens, event.completion_tokens, event.cost,
        event.metrics, event.properties,
        jsonb_build_object(
          'user', event.user_id, 'apiKey', event.api_key, 'model', event.model, 'provider', event.provider,
          'status', case when event.failed then 'failure' else 'success' end))
    end
  from edges
  join usage_events as event
    on event.date between edges.first_day and edges.last_day
      and event.time >= edges.start and (edges.ends is null or event.time < edges.ends)
      and (
        edges.measure = 'meter'
        or (edges.ends is not null
          and (event.date = edges.last_day or (event.date = edges.first_day and edges.first_day < edges.first_whole))))
      and (edges.merchant_id = '' or event.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or event.user_id = edges.user_id)
      and (edges.api_key = '' or event.api_key = edges.api_key)
      and (edges.model = '' or event.model = edges.model)
  left join usage_adjustments as void
    on void.merchant_id = event.merchant_id and void.date = event.date and void.void_of = event.id
  where void.id is null
  union all
  -- An adjustment counts at the start of its day; those of whole days are in the daily rollup.
  select
    case when edges.team <> '' then adjustment.merchant_id end as merchant_id,
    case when edges.team <> '' then adjustment.api_key end as api_key,
    case when edges.team <> '' then adjustment.user_id end as user_id,
    case edges.measure
      when 'cost' then cost
      when 'requests' then requests
      when 'tokens' then prompt_tokens + completion_tokens
      else budget_meter_units(
        edges.meter, requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, null::jsonb,
        jsonb_build_object(
          'user', adjustment.user_id, 'apiKey', adjustment.api_key, 'model', adjustment.model, 'provider', provider))
    end
  from edges
  join usage_adjustments as adjustment
    on adjustment.void_of is null
      and adjustment.date between edges.first_day and edges.last_day
      and adjustment.date::timestamp at time zone 'UTC' >= edges.start
      and (edges.ends is null or adjustment.date::timestamp at time zone 'UTC' < edges.ends)
      and (edges.measure = 'meter' or (edges.ends is not null and adjustment.date = edges.last_day))
      and (edges.merchant_id = '' or adjustment.merchant_id = edges.merchant_id)
      and (edges.user_id = '' or adjustment.user_id = edges.user_id)
      and (edges.api_key = '' or adjustment.api_key = edges.api_key)
      and (edges.model = '' or adjustment.model = edges.model)
),
owners as materialized (
  select merchant_id, api_key, user_id, sum(units) as units
  from parts
  group by 1, 2, 3
)
insert into budget_spend (budget_id, period_start, units)
select edges.id, edges.start, coalesce((
  select sum(units) from owners where edges.team = '' or edges.team = directory_team(merchant_id, api_key, user_id)
), 0)
from edges
