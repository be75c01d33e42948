-- Returns merchants with rows in the rollups of meters, of any period: from one merchant of a meter to the next.
with recursive days as (
  select id as meter_id, (select min(merchant_id) from meter_days where meter_id = meters.id) as merchant_id
  from meters
  where removed_at is null
  union all
  select meter_id, (
    select min(merchant_id)
    from meter_days as next
    where next.meter_id = days.meter_id and next.merchant_id > days.merchant_id)
  from days
  where merchant_id is not null
),
quarters as (
  select id as meter_id, (select min(merchant_id) from meter_quarters where meter_id = meters.id) as merchant_id
  from meters
  where removed_at is null
  union all
  select meter_id, (
    select min(merchant_id)
    from meter_quarters as next
    where next.meter_id = quarters.meter_id and next.merchant_id > quarters.merchant_id)
  from quarters
  where merchant_id is not null
)
select merchant_id from days where merchant_id is not null
union
select merchant_id from quarters where merchant_id is not null
order by 1
