-- Returns merchants with copies of realtime metrics. Goes from one to the next by the primary key, without reading
-- rows.
with recursive merchant (id) as (
  (select merchant_id from realtime_metrics_cache order by merchant_id limit 1)
  union all
  select (select merchant_id from realtime_metrics_cache where merchant_id > id order by merchant_id limit 1)
  from merchant
  where id is not null
)
select id
from merchant
where id is not null
