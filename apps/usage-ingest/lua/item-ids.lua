-- Returns the id of the newest, or the oldest, item of each of some journals; '' for an empty one.
-- KEYS journal streams   ARGV[1] 'newest' or 'oldest'
-- Why a script: an answer with the items themselves would carry up to a MiB for each journal.
local ids = {}
for i = 1, #KEYS do
  local items = ARGV[1] == 'newest' and redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
    or redis.call('XRANGE', KEYS[i], '-', '+', 'COUNT', 1)
  ids[i] = items[1] and items[1][1] or ''
end
return ids
