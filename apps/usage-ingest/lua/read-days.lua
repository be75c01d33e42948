-- Returns the running totals of some merchants' days of one shard, with the end of its journal, at one moment.
-- KEYS[1] journal stream   KEYS[2] count of subtractions   KEYS[3] life
-- KEYS[4] set of merchants whose totals are known to be wrong   KEYS[5…] for each day: set of metric types
-- ARGV[1] and ARGV[2] prefix and suffix of the set of repaired merchants
-- ARGV[3…] for each day: merchant, prefix and suffix of its totals, more metric types (separated by commas)
-- Returns {id of the last item or '', count of subtractions, then for each day {trusted, type, total, type, total, …}}.
-- trusted is 1 if the totals were repaired since Redis started and are not known to be wrong; missing ones are left out.
-- Why atomic: totals are compared with the journal they include.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local whole = redis.call('GET', KEYS[3]) == run
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local answer = { last and last[1] or '', redis.call('GET', KEYS[2]) or '0' }
for d = 5, #KEYS do
  local at = 3 + (d - 5) * 4
  local merchant, prefix, suffix, more = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local trusted = (whole or redis.call('SISMEMBER', ARGV[1] .. run .. ARGV[2], merchant) == 1)
    and redis.call('SISMEMBER', KEYS[4], merchant) == 0
  local day, told = { trusted and 1 or 0 }, {}
  local function read(metric_type)
    if told[metric_type] then return end
    told[metric_type] = true
    local total = redis.call('GET', prefix .. metric_type .. suffix)
    if total then
      day[#day + 1] = metric_type
      day[#day + 1] = total
    end
  end
  for _, metric_type in ipairs(redis.call('SMEMBERS', KEYS[d])) do read(metric_type) end
  for metric_type in string.gmatch(more, '[^,]+') do read(metric_type) end
  answer[#answer + 1] = day
end
return answer
