-- Sets totals of a merchant's day right, if none of them changed since they were read.
-- KEYS[1] the day's set of metric types   KEYS[2…] totals
-- ARGV[1] moment of expiry (Unix seconds)   ARGV[2…] for each total: metric type, value read ('' for none), value to set
-- Returns 1, or 0 where a total had changed and nothing was set.
-- Why atomic: a total is replaced by a value that was computed from it; added to, a repeat would count twice.
for k = 2, #KEYS do
  local at = 2 + (k - 2) * 3
  if (redis.call('GET', KEYS[k]) or '') ~= ARGV[at + 1] then return 0 end
end
for k = 2, #KEYS do
  local at = 2 + (k - 2) * 3
  redis.call('SET', KEYS[k], ARGV[at + 2])
  redis.call('EXPIREAT', KEYS[k], ARGV[1])
  redis.call('SADD', KEYS[1], ARGV[at])
end
redis.call('EXPIREAT', KEYS[1], ARGV[1])
return 1
