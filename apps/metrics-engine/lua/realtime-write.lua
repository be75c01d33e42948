-- Writes points of one series of realtime metrics: registers its name and labels within the limits, then changes its value.
-- KEYS[1] marker of the merchant   KEYS[2] names (name -> type)   KEYS[3] the name's series (labels -> meta)
-- KEYS[4] the value, a hash
-- ARGV[1] name   ARGV[2] type   ARGV[3] labels   ARGV[4] meta   ARGV[5] window, '' for none   ARGV[6] most names
-- ARGV[7] most series of a name   ARGV[8] seconds the value is kept   ARGV[9] seconds the registers are kept
-- ARGV[10] number of fields to add to, then pairs field, amount; then pairs field, value to set
-- `low` and `high` are set only where they widen the range: texts of one length, whose order is that of the numbers
-- Returns 'ok', 'lost' (this server is not the one that the marker was set on), 'type' (the name has another type),
-- 'window <seconds>' (the series has another window), 'names', 'series' (a limit is reached), 'sum' (too large a sum)
-- Why atomic: two first points of a name must not pass the limit together, nor disagree about type or window; and a
-- server that came back with older data takes no point before its copy is brought back.
-- Amounts are strings all the way: Lua's numbers are doubles.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('HGET', KEYS[1], 'run') ~= run then return 'lost' end
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known and known ~= ARGV[2] then return 'type' end
if not known and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then return 'names' end
local meta = redis.call('HGET', KEYS[3], ARGV[3])
if not meta and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[7]) then return 'series' end
if meta and ARGV[5] ~= '' then
  local window = string.match(meta, '"window":(%d+)')
  if window ~= ARGV[5] then return 'window ' .. window end
end
local sets = 11 + tonumber(ARGV[10]) * 2
for i = 11, sets - 1, 2 do
  if #(redis.call('HGET', KEYS[4], ARGV[i]) or '') >= 18 then return 'sum' end
end

local function keep(key, seconds)
  if redis.call('TTL', key) < tonumber(seconds) then redis.call('EXPIRE', key, seconds) end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
for i = 11, sets - 1, 2 do redis.call('HINCRBY', KEYS[4], ARGV[i], ARGV[i + 1]) end
for i = sets, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local old = redis.call('HGET', KEYS[4], field)
  local narrower = old and ((field == 'low' and value >= old) or (field == 'high' and value <= old))
  if not narrower then redis.call('HSET', KEYS[4], field, value) end
end
redis.call('EXPIRE', KEYS[4], ARGV[8])
for i = 1, 3 do keep(KEYS[i], ARGV[9]) end
return 'ok'
