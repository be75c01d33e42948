-- Adds the shards of a new database, unless it has some.
-- $1 number of shards
insert into usage_shards (shard)
select shard
from generate_series(0, $1::int - 1) as shard
where not exists (select from usage_shards)
