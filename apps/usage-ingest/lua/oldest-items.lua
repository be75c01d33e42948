-- Returns the oldest items of a shard's journal stream, until they hold enough events or bytes.
-- KEYS[1] journal stream   ARGV[1] id to start after ('-' for the first)   ARGV[2] id of the last item that may be read
-- ARGV[3] number of events   ARGV[4] number of bytes
-- Returns stream items, as XRANGE does: enough to reach a limit, or all.
-- Why a script: items hold 1 to 2,000 events, and a batch should have neither a few events nor more than memory allows.
local ITEMS = 32
local found, events, bytes = {}, 0, 0
local from = ARGV[1] == '-' and '-' or '(' .. ARGV[1]
while true do
  local items = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', ITEMS)
  for _, item in ipairs(items) do
    found[#found + 1] = item
    for f = 1, #item[2], 2 do
      if item[2][f] == 'count' then events = events + tonumber(item[2][f + 1]) end
      if item[2][f] == 'lines' then bytes = bytes + #item[2][f + 1] end
    end
    if events >= tonumber(ARGV[3]) or bytes >= tonumber(ARGV[4]) then return found end
    from = '(' .. item[1]
  end
  if #items < ITEMS then return found end
end
