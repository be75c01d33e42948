-- Removes flushed items from a shard's journal, each only if it still carries the batch that was read, and subtracts
-- the amounts of its repeats from the totals that still exist.
-- KEYS[1] journal stream   KEYS[2] count of subtractions   KEYS[3…] totals, in the order of their amounts
-- ARGV for each item: stream id, batch id, number of amounts, the amounts
-- Returns the number of removed items.
-- Why atomic: a repeat leaves the totals exactly when its item goes. After a failover to a replica with a slower clock
-- another batch may carry the same stream id. Never creates a total: a missing one is left to the repair.
local at, key, removed = 1, 2, 0
while ARGV[at] do
  local id, batch, amounts = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local item, own = redis.call('XRANGE', KEYS[1], id, id)[1], false
  for f = 1, item and #item[2] or 0, 2 do
    if item[2][f] == 'batch' then own = item[2][f + 1] == batch end
  end
  if own then
    redis.call('XDEL', KEYS[1], id)
    removed = removed + 1
    for i = 1, amounts do
      if redis.call('EXISTS', KEYS[key + i]) == 1 then redis.call('DECRBY', KEYS[key + i], ARGV[at + 2 + i]) end
    end
    if amounts > 0 then redis.call('INCR', KEYS[2]) end
  end
  key = key + amounts
  at = at + 3 + amounts
end
return removed
