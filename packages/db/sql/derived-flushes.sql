-- Records that flushes were added to every derived rollup.
-- $1 flush ids
update usage_flushes set derived_at = clock_timestamp() where id = any($1::bigint[])
