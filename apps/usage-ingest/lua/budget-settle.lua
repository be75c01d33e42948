-- Ends reservations, and notes what events add to budgets until Postgres shows it.
-- ARGV[1] notes at most   ARGV then for each item: reservation id or '', event or '', `slot=amount,…` of the event
-- Returns for each item: 1 its reservation was open, 2 its reservation was ended by the same event, 0 neither. An event
-- of 0 with a reservation id is not noted: it may be counted already.
-- Why atomic: a reservation becomes spend in one step, so its amount is never free and never counted twice.
local UNKNOWN, OPEN, REPEATED = 0, 1, 2
local whole = is_whole()
local ended = {}
for at = 2, #ARGV, 3 do
  local id, event, list = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local outcome = UNKNOWN
  local text = id ~= '' and whole and redis.call('HGET', RESERVATIONS, id)
  if text then
    local state, expiry, digest, rest = parse(text)
    if state == 'o' then
      outcome = OPEN
      each(rest, function(slot, amount) reserve(slot, negated(amount)) end)
      -- Kept for a while, so that a retry gets the same answer.
      redis.call('HSET', RESERVATIONS, id, 'e|' .. string.format('%.0f', expiry) .. '|' .. digest .. '|' .. event)
      redis.call('ZADD', EXPIRIES, now + KEEP_MS, id)
    elseif event ~= '' and rest == event then
      outcome = REPEATED
    end
  end
  if event ~= '' and list ~= '' and (id == '' or outcome == OPEN) and redis.call('HLEN', NOTES) < tonumber(ARGV[1]) then
    if redis.call('HSETNX', NOTES, event, string.format('%.0f', now) .. '|' .. list) == 1 then
      each(list, use)
    end
  end
  ended[#ended + 1] = outcome
end
return ended
