-- Shared prefix of the budget scripts.
-- KEYS[1] sums: hash of `<slot>:used|spent|reserved`, `run`, `rebuilding`, `token`, `about`; a slot is a budget's period
-- KEYS[2] reservations: hash of id to `o|<expiry ms>|<digest>|<slot=amount,…>`; ended: `e|<expiry ms>|<digest>|<event>`
-- KEYS[3] expiries: sorted set of reservation ids by the time at which they expire, or are forgotten
-- KEYS[4] notes: hash of events that Postgres does not show yet to `<ms>|<slot=amount,…>`
-- `used` is spent + noted + reserved. A script reads a sum at most once, and `save` writes what has changed.
local SUMS, RESERVATIONS, EXPIRIES, NOTES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local KEEP_MS = 600000
local AT_ONCE = 1000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')

-- Calls a command with any number of arguments, some at a time. Returns all that it answers, in order.
local function in_pages(command, key, list)
  if #list <= AT_ONCE then return #list > 0 and redis.call(command, key, unpack(list)) or {} end
  local answers = {}
  for at = 1, #list, AT_ONCE do
    local answer = redis.call(command, key, unpack(list, at, math.min(at + AT_ONCE - 1, #list)))
    for i = 1, type(answer) == 'table' and #answer or 0 do answers[#answers + 1] = answer[i] end
  end
  return answers
end

-- Lua's numbers are doubles, which hold whole numbers up to 2^53. So a sum is two of them, high * 10^9 + low, and
-- always exact; 0 <= low < 10^9.
local BASE, SHORT = 1e9, 15

local floor, find, format, sub = math.floor, string.find, string.format, string.sub

local function parse_units(text)
  if #text <= SHORT then return 0, tonumber(text) end
  local sign, digits = 1, text
  if sub(text, 1, 1) == '-' then
    sign, digits = -1, sub(text, 2)
  end
  return sign * tonumber(sub(digits, 1, -10)), sign * tonumber(sub(digits, -9))
end

local function add(sum, high, low)
  low = sum.low + low
  local carry = floor(low / BASE)
  sum.high = sum.high + high + carry
  sum.low = low - carry * BASE
end

local function units(text)
  local sum = { high = 0, low = 0 }
  add(sum, parse_units(text))
  return sum
end

-- `%d` is exact for the whole numbers that a double holds, and faster than `%.0f`.
local function text_of(sum)
  local high, low, sign = sum.high, sum.low, ''
  if high < 0 then
    sign, high = '-', -high
    if low > 0 then high, low = high - 1, BASE - low end
  end
  return high == 0 and format('%s%d', sign, low) or format('%s%d%09d', sign, high, low)
end

local slots, changed = {}, {}

-- Reads the sums of slots that are not read yet, with one command.
local function read_sums(names)
  local new, fields = {}, {}
  for _, slot in ipairs(names) do
    if slots[slot] == nil then
      slots[slot] = false
      local n = #new
      new[n + 1] = slot
      fields[n * 3 + 1], fields[n * 3 + 2], fields[n * 3 + 3] = slot .. ':used', slot .. ':reserved', slot .. ':spent'
    end
  end
  local read = in_pages('HMGET', SUMS, fields)
  for n, slot in ipairs(new) do
    local used, reserved, spent = read[n * 3 - 2], read[n * 3 - 1], read[n * 3]
    slots[slot] = { used = units(used or '0'), reserved = units(reserved or '0'), spent = spent }
  end
end

local function sums_of(slot)
  if not slots[slot] then read_sums({ slot }) end
  return slots[slot]
end

local function sums_to_change(slot)
  local sums = sums_of(slot)
  if not sums.is_changed then
    sums.is_changed = true
    changed[#changed + 1] = slot
  end
  return sums
end

local function use(slot, amount, sign)
  local high, low = parse_units(amount)
  add(sums_to_change(slot).used, sign * high, sign * low)
end

local function reserve(slot, amount, sign)
  local sums, high, low = sums_to_change(slot), parse_units(amount)
  add(sums.reserved, sign * high, sign * low)
  add(sums.used, sign * high, sign * low)
end

-- `slot=amount,…` as a list: slot, amount, … Searches plain text: patterns look at each character of a slot.
local function parts_of(list)
  local parts, at = {}, 1
  while at <= #list do
    local equals = find(list, '=', at, true)
    local comma = find(list, ',', equals, true) or #list + 1
    parts[#parts + 1], parts[#parts + 2] = sub(list, at, equals - 1), sub(list, equals + 1, comma - 1)
    at = comma + 1
  end
  return parts
end

local function each(parts, act, sign)
  for p = 1, #parts, 2 do act(parts[p], parts[p + 1], sign) end
end

local function save()
  local fields = {}
  for n, slot in ipairs(changed) do
    local sums, at = slots[slot], n * 4 - 3
    fields[at], fields[at + 1] = slot .. ':used', text_of(sums.used)
    fields[at + 2], fields[at + 3] = slot .. ':reserved', text_of(sums.reserved)
  end
  in_pages('HSET', SUMS, fields)
end

-- Sums of another run of Redis may be outdated: they are dropped, and rebuilt from Postgres and pending events.
local function is_whole()
  if redis.call('HGET', SUMS, 'run') == run then return true end
  if redis.call('HGET', SUMS, 'rebuilding') ~= run then
    local token = redis.call('HGET', SUMS, 'token')
    redis.call('DEL', SUMS, RESERVATIONS, EXPIRIES, NOTES)
    redis.call('HSET', SUMS, 'rebuilding', run, 'token', token or '0')
  end
  return false
end

local function parse(text)
  local state, expiry, digest, list = string.match(text, '^(%a)|(%d+)|([^|]*)|(.*)$')
  return state, tonumber(expiry), digest, list
end

local function expire()
  local ids = redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', now)
  for _, text in ipairs(in_pages('HMGET', RESERVATIONS, ids)) do
    if text then
      local state, _, _, list = parse(text)
      if state == 'o' then each(parts_of(list), reserve, -1) end
    end
  end
  in_pages('HDEL', RESERVATIONS, ids)
  in_pages('ZREM', EXPIRIES, ids)
end
