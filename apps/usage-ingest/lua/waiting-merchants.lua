-- The merchants that have events waiting in a shard's journal.
-- KEYS[1] journal stream
-- Returns the merchants, each once.
-- Why a script: the events themselves need not leave Redis to be counted by merchant.
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
