-- Shared prefix of the budget scripts.
-- KEYS[1] sums: hash of `<slot>:used|spent|reserved`, `run`, `rebuilding`, `token`; a slot is a budget's period
-- KEYS[2] reservations: hash of id to `o|<expiry ms>|<digest>|<slot=amount,…>`; ended: `e|<expiry ms>|<digest>|<event>`
-- KEYS[3] expiries: sorted set of reservation ids by the time at which they expire, or are forgotten
-- KEYS[4] notes: hash of events that Postgres does not show yet to `<ms>|<slot=amount,…>`
-- `used` is spent + noted + reserved. Amounts stay strings: Lua's numbers are doubles.
local SUMS, RESERVATIONS, EXPIRIES, NOTES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local KEEP_MS = 600000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')

local function use(slot, amount)
  redis.call('HINCRBY', SUMS, slot .. ':used', amount)
end

local function reserve(slot, amount)
  redis.call('HINCRBY', SUMS, slot .. ':reserved', amount)
  use(slot, amount)
end

local function negated(amount)
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return amount == '0' and amount or '-' .. amount
end

local function each(list, act)
  for slot, amount in string.gmatch(list, '([^=,]+)=(%-?%d+)') do act(slot, amount) end
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
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', now)) do
    local text = redis.call('HGET', RESERVATIONS, id)
    if text then
      local state, _, _, list = parse(text)
      if state == 'o' then each(list, function(slot, amount) reserve(slot, negated(amount)) end) end
      redis.call('HDEL', RESERVATIONS, id)
    end
    redis.call('ZREM', EXPIRIES, id)
  end
end
