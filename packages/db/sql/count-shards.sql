-- How many shards there are.
select count(*)::int as count
from usage_shards
