-- Returns the shards of a lease that it still holds; their rows stay locked until the transaction ends.
-- $1 shards   $2 token of the lease
select shard
from usage_shards
where shard = any($1::int[]) and token = $2
order by shard
for share
