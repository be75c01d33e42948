-- Returns the number of shards.
select count(*)::int as count
from usage_shards
