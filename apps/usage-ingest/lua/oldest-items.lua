-- The oldest items of a merchant's journal stream, until they hold enough entries.
-- KEYS[1] journal stream   ARGV[1] id of the last item that may be read   ARGV[2] number of entries
-- Returns stream items, as XRANGE does: as many as hold that many entries, all where they hold fewer.
-- Why a script: items hold 1 to 1,000 entries, and a piece must be neither a few entries nor more than memory bears.
local ITEMS = 32
local found, entries, from = {}, 0, '-'
while true do
  local items = redis.call('XRANGE', KEYS[1], from, ARGV[1], 'COUNT', ITEMS)
  for _, item in ipairs(items) do
    found[#found + 1] = item
    for f = 1, #item[2], 2 do
      if item[2][f] == 'count' then entries = entries + tonumber(item[2][f + 1]) end
    end
    if entries >= tonumber(ARGV[2]) then return found end
    from = '(' .. item[1]
  end
  if #items < ITEMS then return found end
end
