-- Reserves amounts of budgets for one or more requests, each by itself: in all its budgets, or in none.
-- ARGV[1] reservations at most   ARGV[2] the requests, in JSON: id, lifetime in ms (0: decide only), digest, and for each
-- budget: slot, limit (empty: soft), amount
-- Returns '' if the sums must be rebuilt, or, separated by commas, for each request: verdict, expiry in ms, then for each
-- budget the used amount and 1 if it refuses. Verdicts: 0 refused, 1 allowed, 2 another request has the id, 3 too many
-- reservations, 4 the spend of a budget is not known yet.
-- Why atomic: nobody may reserve between the comparison and the addition.
local REFUSED, ALLOWED, CONFLICT, FULL, UNKNOWN = 0, 1, 2, 3, 4
if not is_whole() then return '' end
expire()
local requests, ids, names = cjson.decode(ARGV[2]), {}, {}
for i, request in ipairs(requests) do
  ids[i] = request[1]
  for _, part in ipairs(request[4]) do names[#names + 1] = part[1] end
end
read_sums(names)
local stored, made = in_pages('HMGET', RESERVATIONS, ids), {}
local room = tonumber(ARGV[1]) - redis.call('HLEN', RESERVATIONS)
local reservations, expiries, answer = {}, {}, {}

-- Returns true if an amount, or even none, does not fit below a limit. Far from the limit, `left` is rounded, and its
-- sign is still right.
local function is_beyond(sums, limit, amount)
  local limit_high, limit_low = parse_units(limit)
  local high, low = parse_units(amount)
  local left = (limit_high - high - sums.used.high) * BASE + (limit_low - low - sums.used.low)
  return left < 0 or (left == 0 and amount == '0')
end

for i, request in ipairs(requests) do
  local id, lifetime, digest, parts = unpack(request)
  local known = made[id] or stored[i]
  local verdict, expiry, refused = ALLOWED, now + lifetime, {}
  if known then
    local _, until_ms, before = parse(known)
    expiry = until_ms
    if before ~= digest then verdict = CONFLICT end
  else
    for _, part in ipairs(parts) do
      if not sums_of(part[1]).spent then verdict = UNKNOWN end
    end
    if room <= 0 then verdict = FULL end
    if verdict == ALLOWED then
      for p, part in ipairs(parts) do
        local slot, limit, amount = unpack(part)
        if limit ~= '' and is_beyond(sums_of(slot), limit, amount) then
          verdict = REFUSED
          refused[p] = true
        end
      end
    end
    if verdict == ALLOWED and lifetime > 0 then
      local list = {}
      for p, part in ipairs(parts) do
        reserve(part[1], part[3], 1)
        list[p] = part[1] .. '=' .. part[3]
      end
      made[id] = string.format('o|%d|%s|%s', expiry, digest, table.concat(list, ','))
      reservations[#reservations + 1], reservations[#reservations + 2] = id, made[id]
      expiries[#expiries + 1], expiries[#expiries + 2] = expiry, id
      room = room - 1
    end
  end
  answer[#answer + 1] = verdict
  answer[#answer + 1] = string.format('%d', expiry)
  for p, part in ipairs(parts) do
    answer[#answer + 1] = text_of(sums_of(part[1]).used)
    answer[#answer + 1] = refused[p] and 1 or 0
  end
end
save()
in_pages('HSET', RESERVATIONS, reservations)
in_pages('ZADD', EXPIRIES, expiries)
return table.concat(answer, ',')
