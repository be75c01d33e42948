-- Ends reservations, and notes what events add to budgets until Postgres shows it.
-- ARGV[1] notes at most   ARGV then for each item: reservation id or '', event or '', `slot=amount,…` of the event
-- Returns for each item 1 if its reservation was open, else 0.
-- Why atomic: a reservation becomes spend in one step, so its amount is never free and never counted twice.
local whole = is_whole()
local ended = {}
for at = 2, #ARGV, 3 do
  local id, event, list = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local was_open = 0
  local text = id ~= '' and whole and redis.call('HGET', RESERVATIONS, id)
  if text then
    local state, expiry, digest, amounts = parse(text)
    if state == 'o' then
      was_open = 1
      each(amounts, function(slot, amount) add(slot, 'reserved', negated(amount)) end)
      -- Kept for a while, so that a retry gets the same answer.
      redis.call('HSET', RESERVATIONS, id, 'e|' .. string.format('%.0f', expiry) .. '|' .. digest .. '|')
      redis.call('ZADD', EXPIRIES, now + KEEP_MS, id)
    end
  end
  if event ~= '' and list ~= '' and redis.call('HLEN', NOTES) < tonumber(ARGV[1]) then
    if redis.call('HSETNX', NOTES, event, string.format('%.0f', now) .. '|' .. list) == 1 then
      each(list, function(slot, amount) add(slot, 'noted', amount) end)
    end
  end
  ended[#ended + 1] = was_open
end
return ended
