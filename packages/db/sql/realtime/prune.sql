-- Deletes expired copies.
-- $1 now, in milliseconds
with pruned as (
  delete from realtime_metrics_cache
  where expires_at <= to_timestamp($1::bigint / 1000.0)
  returning 1
)
select count(*) as rows
from pruned
