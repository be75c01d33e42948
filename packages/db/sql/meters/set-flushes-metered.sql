-- Records the run that added some flushes to the rollups of meters.
-- $1 run   $2 flush ids
update usage_flushes set metered = $1 where id = any($2::bigint[])
