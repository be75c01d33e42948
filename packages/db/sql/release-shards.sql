-- Ends leases early.
-- $1 shards   $2 token of the lease
update usage_shards
set expires_at = '-infinity'
where shard = any($1::int[]) and token = $2
