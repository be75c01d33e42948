-- Records which running totals of a shard were repaired in this run of Redis.
-- KEYS[1] life   ARGV[1] and ARGV[2] prefix and suffix of the set of repaired merchants
-- ARGV[3] `begin`, `merchants` or `end` of a repair   ARGV[4] the run under repair   ARGV[5…] merchants
-- Returns 1, or 0 if Redis was restarted, or emptied, since the repair began.
-- Why atomic: repairs from before a loss must not count after it.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local step, life, repaired = ARGV[3], redis.call('GET', KEYS[1]), ARGV[1] .. run .. ARGV[2]
if run ~= ARGV[4] then return 0 end
if life == run then return 1 end
if step == 'begin' then
  redis.call('SET', KEYS[1], 'repairing ' .. run)
  return 1
end
if life ~= 'repairing ' .. run then return 0 end
if step == 'end' then
  redis.call('SET', KEYS[1], run)
  redis.call('UNLINK', repaired)
else
  redis.call('SADD', repaired, unpack(ARGV, 5))
  redis.call('EXPIRE', repaired, 86400)
end
return 1
