-- Reads the windows of event ids of some shards, and drops their oldest generation, or all, if asked to.
-- KEYS, three a shard: journal stream, list of generations, ends of generations
-- ARGV[1] the generation to drop, 'all', or ''   then two a shard: prefix and suffix of the id sets
-- Returns {time in ms, then for each shard {name of the first generation since which none was dropped, or '', then for
-- each generation, oldest first: name, memory in bytes, ids, 1 if it may be dropped}}.
-- Why atomic: a generation goes only when all its events are flushed, and never while it is written to.
local dropped = ARGV[1]

local function window(journal, list, ends, prefix, suffix)
  local names = redis.call('LRANGE', list, 0, -1)
  local oldest_item = redis.call('XRANGE', journal, '-', '+', 'COUNT', 1)[1]

  local function may_go(name)
    if name == names[1] then return false end
    local last = redis.call('HGET', ends, name)
    if not last then return false end
    if not oldest_item then return true end
    local a, b = string.match(oldest_item[1], '(%d+)-(%d+)')
    local c, d = string.match(last, '(%d+)-(%d+)')
    a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    return a > c or (a == c and b > d)
  end

  if dropped == 'all' then
    for i = 1, #names do redis.call('UNLINK', prefix .. names[i] .. suffix) end
    redis.call('DEL', list, ends)
    names = {}
  elseif dropped ~= '' and #names > 1 and names[#names] == dropped and may_go(dropped) then
    redis.call('RPOP', list)
    redis.call('HDEL', ends, dropped)
    redis.call('HSET', ends, 'since', names[#names - 1])
    redis.call('UNLINK', prefix .. dropped .. suffix)
    table.remove(names)
  end
  local answer = { redis.call('HGET', ends, 'since') or '' }
  for i = #names, 1, -1 do
    local key = prefix .. names[i] .. suffix
    answer[#answer + 1] = names[i]
    answer[#answer + 1] = redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 5) or 0
    answer[#answer + 1] = redis.call('SCARD', key)
    answer[#answer + 1] = may_go(names[i]) and 1 or 0
  end
  return answer
end

local time = redis.call('TIME')
local answers = { string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)) }
for i = 1, #KEYS / 3 do
  answers[i + 1] = window(KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i], ARGV[2 * i], ARGV[2 * i + 1])
end
return answers
