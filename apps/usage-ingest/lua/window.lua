-- Reads a shard's window of event ids, and drops its oldest generation, or all, if asked to.
-- KEYS[1] journal stream   KEYS[2] list of generations   KEYS[3] ends of generations
-- ARGV[1] and ARGV[2] prefix and suffix of the id sets   ARGV[3] the generation to drop, 'all', or ''
-- Returns {time in ms, name of the first generation since which none was dropped, or '', then for each generation,
-- oldest first: name, memory in bytes, ids, 1 if it may be dropped}.
-- Why atomic: a generation goes only when all its events are flushed, and never while it is written to.
local time = redis.call('TIME')
local names = redis.call('LRANGE', KEYS[2], 0, -1)
local oldest_item = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]

local function may_go(name)
  if name == names[1] then return false end
  local last = redis.call('HGET', KEYS[3], name)
  if not last then return false end
  if not oldest_item then return true end
  local a, b = string.match(oldest_item[1], '(%d+)-(%d+)')
  local c, d = string.match(last, '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a > c or (a == c and b > d)
end

if ARGV[3] == 'all' then
  for i = 1, #names do redis.call('UNLINK', ARGV[1] .. names[i] .. ARGV[2]) end
  redis.call('DEL', KEYS[2], KEYS[3])
  names = {}
elseif ARGV[3] ~= '' and #names > 1 and names[#names] == ARGV[3] and may_go(ARGV[3]) then
  redis.call('RPOP', KEYS[2])
  redis.call('HDEL', KEYS[3], ARGV[3])
  redis.call('HSET', KEYS[3], 'since', names[#names - 1])
  redis.call('UNLINK', ARGV[1] .. ARGV[3] .. ARGV[2])
  table.remove(names)
end
local answer = {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), redis.call('HGET', KEYS[3], 'since') or ''
}
for i = #names, 1, -1 do
  local key = ARGV[1] .. names[i] .. ARGV[2]
  answer[#answer + 1] = names[i]
  answer[#answer + 1] = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 5) or 0
  answer[#answer + 1] = redis.call('SCARD', key)
  answer[#answer + 1] = may_go(names[i]) and 1 or 0
end
return answer
