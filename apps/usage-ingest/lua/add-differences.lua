-- Repairs running totals of some merchants' days of one shard by adding differences.
-- KEYS[1] count of repairs of the shard   KEYS then for each total: the day's set of metric types, the total
-- ARGV[1] that count before the totals were read   ARGV then for each total: metric type, difference, expiry
-- Returns 1, or 0 if totals of the shard were repaired since: by another repair, or by this call.
-- Why a difference: events recorded since the totals were read stay in them, so a busy merchant never delays a repair.
-- Why atomic: a call that arrives late, or again after its answer was lost, would add the same difference once more.
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
for t = 1, (#KEYS - 1) / 2 do
  local types, total = KEYS[t * 2], KEYS[t * 2 + 1]
  local metric_type, difference, expiry = ARGV[t * 3 - 1], ARGV[t * 3], ARGV[t * 3 + 1]
  redis.call('INCRBY', total, difference)
  redis.call('EXPIREAT', total, expiry)
  redis.call('SADD', types, metric_type)
  redis.call('EXPIREAT', types, expiry)
end
redis.call('INCR', KEYS[1])
return 1
