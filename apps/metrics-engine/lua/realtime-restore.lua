-- Restores a part of a merchant's saved realtime metrics to a server that lost them or returned with older ones.
-- KEYS[1] marker of the merchant   KEYS[2] names   KEYS[3…] pairs: series of the name, value hash
-- ARGV[1] 'more' or 'last': whether parts follow   ARGV[2] seconds the registers are kept   ARGV[3…] for each pair:
-- name, type, labels, meta, epoch of the copy, milliseconds that the value is kept, value as JSON
-- Returns the number of restored values; -1 if nothing needs restoring any more.
-- Why atomic: the last part lets points in; only a value that is missing or older than its copy is replaced.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('HGET', KEYS[1], 'run') == run then return -1 end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
local newest, restored = epoch, 0
for pair = 0, (#KEYS - 2) / 2 - 1 do
  local at = 3 + pair * 7
  local series, value = KEYS[3 + pair * 2], KEYS[4 + pair * 2]
  local known, saved = redis.call('HGET', KEYS[2], ARGV[at]), tonumber(ARGV[at + 4])
  local old = saved > epoch or redis.call('EXISTS', value) == 0
  if old and (not known or known == ARGV[at + 1]) then
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    redis.call('HSET', series, ARGV[at + 2], ARGV[at + 3])
    redis.call('DEL', value)
    for field, text in pairs(cjson.decode(ARGV[at + 6])) do redis.call('HSET', value, field, text) end
    redis.call('PEXPIRE', value, ARGV[at + 5])
    redis.call('EXPIRE', series, ARGV[2])
    restored = restored + 1
  end
  if saved > newest then newest = saved end
end
local seen = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0')
if seen > newest then newest = seen end
if ARGV[1] == 'more' then
  redis.call('HSET', KEYS[1], 'newest', newest)
else
  redis.call('HSET', KEYS[1], 'run', run, 'epoch', string.format('%d', newest))
  redis.call('HDEL', KEYS[1], 'newest')
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return restored
