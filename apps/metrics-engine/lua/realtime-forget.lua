-- Removes series without points for some time, and names without series, so that they do not count towards the limits.
-- KEYS[1] names   KEYS[2] series of a name
-- ARGV[1] the name   ARGV[2] milliseconds since 1970   ARGV[3] milliseconds that a series is kept after its last point;
-- one with a longer window is kept for its window
-- Returns the number of removed series, and whether the name was removed.
-- Why atomic: a concurrent point must not lose its registration.
local forgotten = 0
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local at = string.match(all[i + 1], '"at":(%d+)')
  local window = string.match(all[i + 1], '"window":(%d+)') or '0'
  if tonumber(at) + math.max(tonumber(ARGV[3]), tonumber(window) * 1000) < tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[2], all[i])
    forgotten = forgotten + 1
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then return { forgotten, 0 } end
return { forgotten, redis.call('HDEL', KEYS[1], ARGV[1]) }
