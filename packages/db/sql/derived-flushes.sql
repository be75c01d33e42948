-- Records that flushes were added to every derived rollup, which ends the use of their sums.
-- $1 flush ids
with removed as (
  delete from usage_flush_sums where flush_id = any($1::bigint[])
)
update usage_flushes set derived_at = clock_timestamp() where id = any($1::bigint[])
