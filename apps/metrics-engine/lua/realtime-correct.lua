-- Corrects a counter, if it still has the value that was read.
-- KEYS[1] the value   ARGV[1] whole units and ARGV[2] nano-units as read, '' if absent   ARGV[3], ARGV[4] the
-- correct ones
-- Returns 1 if it was set, 0 if it changed meanwhile.
-- Why atomic: concurrent additions must not be lost.
if (redis.call('HGET', KEYS[1], 'i') or '') ~= ARGV[1] or (redis.call('HGET', KEYS[1], 'n') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'i', ARGV[3], 'n', ARGV[4])
return 1
