-- Returns merchants with usage in a range of dates, in whichever stored form: one that lost a merchant must not hide
-- it.
-- $1 first date   $2 last date
-- Reads only the first row of each merchant from the indexes of the large tables: from one merchant to the next.
with recursive entries as (
  select day::date as date, (select min(merchant_id) from usage_events where date = day::date) as merchant_id
  from generate_series($1::date, $2::date, interval '1 day') as day
  union all
  select
    date,
    (select min(merchant_id) from usage_events as next where next.date = entries.date and next.merchant_id > entries.merchant_id)
  from entries
  where merchant_id is not null
),
daily as (
  select (select min(merchant_id) from usage_daily) as merchant_id
  union all
  select (select min(merchant_id) from usage_daily as next where next.merchant_id > daily.merchant_id)
  from daily
  where merchant_id is not null
)
select merchant_id from entries where merchant_id is not null
union
select merchant_id
from daily
where exists (select from usage_daily as own where own.merchant_id = daily.merchant_id and own.date between $1 and $2)
union
select merchant_id
from usage_journal_closings
where date between $1 and $2 and exists (select from usage_closed_days where date between $1 and $2)
union
select merchant_id from usage_adjustments where date between $1 and $2
union
select merchant_id from usage_daily_models where date between $1 and $2
union
select merchant_id from merchant_usage where date between $1 and $2
order by 1
