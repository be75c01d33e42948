-- Ends reservations, and notes what events add to budgets until Postgres shows it.
-- ARGV[1] notes at most   ARGV[2] the items, in JSON: reservation id or '', event or '', `slot=amount,…` of the event
-- Returns a digit for each item: 1 its reservation was open, 2 its reservation was ended by the same event, 0 neither. An
-- event of 0 with a reservation id is not noted: it may be counted already.
-- Why atomic: a reservation becomes spend in one step, so its amount is never free and never counted twice.
local UNKNOWN, OPEN, REPEATED = 0, 1, 2
local whole = is_whole()
local items, ids, events, parts, names = cjson.decode(ARGV[2]), {}, {}, {}, {}
for i, item in ipairs(items) do
  ids[i], events[i], parts[i] = item[1], item[2], parts_of(item[3])
  for p = 1, #parts[i], 2 do names[#names + 1] = parts[i][p] end
end
read_sums(names)
local stored, noted = in_pages('HMGET', RESERVATIONS, ids), in_pages('HMGET', NOTES, events)
local room = tonumber(ARGV[1]) - redis.call('HLEN', NOTES)
local stamp = string.format('%d', now)
local texts, reservations, expiries, seen, notes, answer = {}, {}, {}, {}, {}, {}
for i, item in ipairs(items) do
  local id, event, list = item[1], item[2], item[3]
  local outcome = UNKNOWN
  local text = id ~= '' and whole and (texts[id] or stored[i])
  if text then
    local state, expiry, digest, rest = parse(text)
    if state == 'o' then
      outcome = OPEN
      each(parts_of(rest), reserve, -1)
      -- Kept for a while, so that a retry gets the same answer.
      texts[id] = string.format('e|%d|%s|%s', expiry, digest, event)
      reservations[#reservations + 1], reservations[#reservations + 2] = id, texts[id]
      expiries[#expiries + 1], expiries[#expiries + 2] = now + KEEP_MS, id
    elseif event ~= '' and rest == event then
      outcome = REPEATED
    end
  end
  if event ~= '' and list ~= '' and (id == '' or outcome == OPEN) and room > 0 and not (noted[i] or seen[event]) then
    seen[event] = true
    room = room - 1
    notes[#notes + 1], notes[#notes + 2] = event, stamp .. '|' .. list
    each(parts[i], use, 1)
  end
  answer[i] = outcome
end
save()
in_pages('HSET', RESERVATIONS, reservations)
in_pages('ZADD', EXPIRIES, expiries)
in_pages('HSET', NOTES, notes)
return table.concat(answer)
