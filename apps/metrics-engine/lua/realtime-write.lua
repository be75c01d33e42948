-- Writes points of a merchant's realtime metrics: registers names and labels within the limits, then changes the
-- values.
-- KEYS[1] marker of the merchant   KEYS[2] names (name -> type)   KEYS[3…] pairs: the name's series (labels -> meta),
-- and the value, a hash
-- ARGV[1] limit of names   ARGV[2] limit of series per name   ARGV[3…] for each pair: name, type, labels, meta, window
-- ('' for none), seconds the value is kept, seconds the registers are kept, number of fields to add to, number of fields to
-- set, pairs field, amount, then pairs field, value
-- `low` and `high` are set only if they widen the range: texts of one length, whose order is that of the numbers
-- Returns for each pair 'ok', 'lost' (the marker was set on another server), 'type' (the name has another
-- type), 'window <seconds>' (the series has another window), 'names', 'series' (a limit is reached), 'sum' (too large a
-- sum)
-- Why atomic: two first points of a name must not exceed the limit together, nor disagree about type or window; and a
-- server that returned with older data takes no point before its copy is restored.
-- Amounts are always strings: Lua's numbers are doubles.
local info = redis.call('INFO', 'server')
local _, at = string.find(info, 'run_id:', 1, true)
local whole = redis.call('HGET', KEYS[1], 'run') == string.match(info, '^%w+', at + 1)

local function keep(key, seconds)
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end
-- Fields whose sum is checked. Buckets need no check: none exceeds the count. Nor do nano-units: they carry.
local summed = { i = true, count = true }

-- Returns whether adding would move a sum of 18 digits further away from 0.
local function full(sum, added)
  local sign, digits = string.match(sum, '^(-?)(%d*)$')
  return #digits >= 18 and sign == string.match(added, '^-?') and added ~= '0'
end

-- Moves whole units out of the nano-units. Digits stay text: a number of Lua is a double.
local function carry(value)
  local sign, digits = string.match(redis.call('HGET', value, 'n') or '0', '^(-?)(%d+)$')
  if #digits <= 9 then return end
  local rest = string.gsub(string.sub(digits, -9), '^0+(%d)', '%1')
  redis.call('HINCRBY', value, 'i', sign .. string.sub(digits, 1, -10))
  redis.call('HSET', value, 'n', (rest == '0' and '' or sign) .. rest)
end

local function write(series, value, first, adds, sets, last)
  if not whole then return 'lost' end
  local name, type, labels, meta, window = unpack(ARGV, first, first + 4)
  local known = redis.call('HGET', KEYS[2], name)
  if known and known ~= type then return 'type' end
  if not known and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 'names' end
  local before = redis.call('HGET', series, labels)
  if not before and redis.call('HLEN', series) >= tonumber(ARGV[2]) then return 'series' end
  if before and window ~= '' then
    local settled = string.match(before, '"window":(%d+)')
    if settled ~= window then return 'window ' .. settled end
  end
  for i = adds, sets - 1, 2 do
    if summed[ARGV[i]] and full(redis.call('HGET', value, ARGV[i]) or '0', ARGV[i + 1]) then return 'sum' end
  end

  if not known then redis.call('HSET', KEYS[2], name, type) end
  redis.call('HSET', series, labels, meta)
  for i = adds, sets - 1, 2 do
    redis.call('HINCRBY', value, ARGV[i], ARGV[i + 1])
    if ARGV[i] == 'n' then carry(value) end
  end
  for i = sets, last - 1, 2 do
    local field, new = ARGV[i], ARGV[i + 1]
    local old = redis.call('HGET', value, field)
    local narrower = old and ((field == 'low' and new >= old) or (field == 'high' and new <= old))
    if not narrower then redis.call('HSET', value, field, new) end
  end
  redis.call('EXPIRE', value, ARGV[first + 5])
  return 'ok'
end

local said, longest, from = {}, 0, 3
for pair = 1, #KEYS / 2 - 1 do
  local series, value = KEYS[pair * 2 + 1], KEYS[pair * 2 + 2]
  local adds = from + 9
  local sets = adds + tonumber(ARGV[from + 7]) * 2
  local last = sets + tonumber(ARGV[from + 8]) * 2
  said[pair] = write(series, value, from, adds, sets, last)
  if said[pair] == 'ok' then
    local kept = tonumber(ARGV[from + 6])
    keep(series, kept)
    longest = math.max(longest, kept)
  end
  from = last
end
if longest > 0 then
  keep(KEYS[1], longest)
  keep(KEYS[2], longest)
end
return said
