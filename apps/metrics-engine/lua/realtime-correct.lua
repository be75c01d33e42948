-- Sets a counter right, if it still is what it was read as.
-- KEYS[1] the value   ARGV[1] whole units and ARGV[2] nano-units as read, '' where there were none   ARGV[3], ARGV[4] the
-- right ones
-- Returns 1 where it was set, 0 where it changed meanwhile.
-- Why atomic: what is counted meanwhile must not be lost.
if (redis.call('HGET', KEYS[1], 'i') or '') ~= ARGV[1] or (redis.call('HGET', KEYS[1], 'n') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'i', ARGV[3], 'n', ARGV[4])
return 1
