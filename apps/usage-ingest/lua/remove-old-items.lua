-- Removes flushed items from a stream of the previous release, each only if it still carries the batch that was read.
-- KEYS[1] journal stream   ARGV pairs: stream id, batch id
-- Returns the number of items left in the stream; removes an empty stream.
-- Why atomic: after a failover to a replica with a slower clock another batch may carry the same stream id.
for i = 1, #ARGV, 2 do
  local item = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if item then
    for f = 1, #item[2], 2 do
      if item[2][f] == 'batch' and item[2][f + 1] == ARGV[i + 1] then redis.call('XDEL', KEYS[1], ARGV[i]) end
    end
  end
end
local left = redis.call('XLEN', KEYS[1])
if left == 0 then redis.call('DEL', KEYS[1]) end
return left
