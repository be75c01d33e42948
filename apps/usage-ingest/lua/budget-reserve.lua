-- Reserves amounts of budgets for one or more requests, each by itself: in all its budgets, or in none.
-- ARGV[1] reservations at most   ARGV then for each request: id, lifetime in ms (0: decide only), digest, number of
-- budgets; for each of those: slot, limit (empty: soft), amount
-- Returns '' if the sums must be rebuilt, or for each request: verdict, expiry in ms, then for each budget the used
-- amount and 1 if it refuses. Verdicts: 0 refused, 1 allowed, 2 another request has the id, 3 too many reservations,
-- 4 the spend of a budget is not known yet.
-- Why atomic: nobody may reserve between the comparison and the addition.
local REFUSED, ALLOWED, CONFLICT, FULL, UNKNOWN = 0, 1, 2, 3, 4
if not is_whole() then return '' end
expire()
local room = tonumber(ARGV[1]) - redis.call('HLEN', RESERVATIONS)

local function exceeds(used, limit)
  if string.sub(used, 1, 1) == '-' then return false end
  return #used > #limit or (#used == #limit and used > limit)
end

local answer, at = {}, 2
while at <= #ARGV do
  local id, lifetime, digest, count = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
  local first = at + 4
  at = first + count * 3
  local known = redis.call('HGET', RESERVATIONS, id)
  local verdict, expiry, refused, used = ALLOWED, now + lifetime, {}, {}
  if known then
    local _, until_ms, before = parse(known)
    expiry = until_ms
    if before ~= digest then verdict = CONFLICT end
  else
    for i = 0, count - 1 do
      if redis.call('HEXISTS', SUMS, ARGV[first + i * 3] .. ':spent') == 0 then verdict = UNKNOWN end
    end
    if room <= 0 then verdict = FULL end
    if verdict == ALLOWED then
      local list = {}
      for i = 0, count - 1 do
        local slot, limit, amount = ARGV[first + i * 3], ARGV[first + i * 3 + 1], ARGV[first + i * 3 + 2]
        reserve(slot, amount)
        used[i] = redis.call('HGET', SUMS, slot .. ':used')
        if limit ~= '' and (exceeds(used[i], limit) or (amount == '0' and used[i] == limit)) then
          verdict = REFUSED
          refused[i] = true
        end
        list[#list + 1] = slot .. '=' .. amount
      end
      if verdict == ALLOWED and lifetime > 0 then
        local text = string.format('o|%.0f|%s|%s', expiry, digest, table.concat(list, ','))
        redis.call('HSET', RESERVATIONS, id, text)
        redis.call('ZADD', EXPIRIES, expiry, id)
        room = room - 1
      else
        for i = 0, count - 1 do reserve(ARGV[first + i * 3], negated(ARGV[first + i * 3 + 2])) end
        used = {}
      end
    end
  end
  answer[#answer + 1] = verdict
  answer[#answer + 1] = string.format('%.0f', expiry)
  for i = 0, count - 1 do
    answer[#answer + 1] = used[i] or redis.call('HGET', SUMS, ARGV[first + i * 3] .. ':used') or '0'
    answer[#answer + 1] = refused[i] and 1 or 0
  end
end
return answer
