-- Lets Citus write and read all shards of a node over one connection until the transaction ends. Without Citus it does
-- nothing.
select set_config('citus.multi_shard_modify_mode', 'sequential', true)
