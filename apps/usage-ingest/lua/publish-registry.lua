-- Publishes the version of the registry of meters that a process has loaded, unless a newer one is known or the
-- registry is being changed.
-- KEYS[1] version of a shard   ARGV[1] version
-- Why atomic: an older version must never replace a newer one.
local known = redis.call('GET', KEYS[1])
if known == 'changing' then return 0 end
if known and tonumber(known) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
