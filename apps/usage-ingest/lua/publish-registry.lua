-- Publishes the version of the registry of meters that a process has loaded, unless a newer one is known or the
-- registry is being changed.
-- KEYS[1] version of a shard   ARGV[1] version   ARGV[2] the newest version that was known before this one was loaded,
-- or 0: Postgres was restored if it is newer
-- Returns the newer version that is known, or 0.
-- Why atomic: an older version must never replace a newer one.
local known = redis.call('GET', KEYS[1])
if known == 'changing' then return 0 end
if known and tonumber(known) > math.max(tonumber(ARGV[1]), tonumber(ARGV[2])) then return tonumber(known) end
if known ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
return 0
