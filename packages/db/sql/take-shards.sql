-- Leases free shards. Skips rows that a counting transaction or another flusher has locked.
-- $1 shards wanted   $2 limit   $3 holder   $4 length of the lease in milliseconds
-- Returns the shards now held, all with one new token.
with free as materialized (
  select shard
  from usage_shards
  where shard = any($1::int[]) and expires_at < clock_timestamp()
  order by shard
  limit $2
  for update skip locked
),
lease as materialized (
  select nextval('usage_shard_tokens') as token
  where exists (select from free)
),
taken as (
  update usage_shards
  set token = lease.token, holder = $3, expires_at = clock_timestamp() + $4::int * interval '1 millisecond'
  from free, lease
  where usage_shards.shard = free.shard
  returning usage_shards.shard, usage_shards.token
)
select shard, token from taken order by shard
