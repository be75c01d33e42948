-- Writes one point of a realtime metric: registers its name and labels within the limits, then changes its value.
-- KEYS[1] names (name -> type)   KEYS[2] the name's series (labels -> meta)   KEYS[3] the value, a hash
-- ARGV[1] name   ARGV[2] type   ARGV[3] labels   ARGV[4] meta   ARGV[5] most names   ARGV[6] most series of a name
-- ARGV[7] seconds the registers are kept   ARGV[8] seconds the value is kept   ARGV[9] number of fields to add to,
-- then pairs field, amount; then pairs field, value to set; `low` and `high` are set only where they widen the range
-- Returns 'ok', 'type' (the name has another type), 'names', 'series' (a limit is reached), 'sum' (too large a sum)
-- Why atomic: two first points of a name must not pass the limit together, nor disagree about the type.
-- Amounts are strings all the way: Lua's numbers are doubles.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and known ~= ARGV[2] then return 'type' end
if not known and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return 'names' end
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then
  return 'series'
end
local sets = 10 + tonumber(ARGV[9]) * 2
for i = 10, sets - 1, 2 do
  if #(redis.call('HGET', KEYS[3], ARGV[i]) or '') >= 18 then return 'sum' end
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[7])
for i = 10, sets - 1, 2 do redis.call('HINCRBY', KEYS[3], ARGV[i], ARGV[i + 1]) end
for i = sets, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local old = redis.call('HGET', KEYS[3], field)
  local narrower = old and ((field == 'low' and tonumber(value) >= tonumber(old))
    or (field == 'high' and tonumber(value) <= tonumber(old)))
  if not narrower then redis.call('HSET', KEYS[3], field, value) end
end
redis.call('EXPIRE', KEYS[3], ARGV[8])
return 'ok'
