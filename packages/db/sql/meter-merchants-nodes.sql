-- The same as meter-merchants.sql for tables that Citus has distributed, whose nodes cannot recurse: each reads its indexes.
select merchant_id
from meter_days
where meter_id in (select id from meters where removed_at is null)
group by 1
union
select merchant_id
from meter_quarters
where meter_id in (select id from meters where removed_at is null)
group by 1
order by 1
