-- Returns the merchants with pending events in a shard's journal, each once.
-- KEYS[1] journal stream
-- Why a script: the events need not leave Redis to be counted by merchant.
local ITEMS = 100
local found, known, from = {}, {}, '-'
while true do
  local items = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ITEMS)
  for _, item in ipairs(items) do
    for f = 1, #item[2], 2 do
      if item[2][f] == 'merchants' then
        for merchant in string.gmatch(item[2][f + 1], '[^\n]+') do
          if not known[merchant] then
            known[merchant] = true
            found[#found + 1] = merchant
          end
        end
      end
    end
    from = '(' .. item[1]
  end
  if #items < ITEMS then return found end
end
