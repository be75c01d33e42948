-- Repairs running totals of some merchants' days of one shard by adding differences.
-- KEYS for each total: the day's set of metric types, the total   ARGV for each total: metric type, difference, expiry
-- Returns nothing of interest.
-- Why a difference: events recorded since the totals were read stay in them, so a busy merchant never delays a repair.
for t = 1, #KEYS / 2 do
  local types, total = KEYS[t * 2 - 1], KEYS[t * 2]
  local metric_type, difference, expiry = ARGV[t * 3 - 2], ARGV[t * 3 - 1], ARGV[t * 3]
  redis.call('INCRBY', total, difference)
  redis.call('EXPIREAT', total, expiry)
  redis.call('SADD', types, metric_type)
  redis.call('EXPIREAT', types, expiry)
end
return #KEYS
