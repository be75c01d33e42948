-- Stores one batch of a merchant: remembers its ids, appends it to the journal, adds it to the totals.
-- All or nothing: where an id was seen, or a total would pass its limit, nothing is written and the answer says which.
-- KEYS[1] ids seen in the current period   KEYS[2] ids seen in the previous period   KEYS[3] journal stream
-- KEYS[4…] pairs: a day's set of metric types, a total of that day
-- ARGV[1] number of ids   ARGV[2] seconds the current period's ids are kept   ARGV[3] batch id
-- ARGV[4] journal lines   ARGV[5] number of lines   ARGV[6…] the ids, then for each pair of keys: metric type,
-- amount, the largest total before it, moment of expiry (Unix seconds)
-- Returns {'ok'}, {'seen', index…} (from 0) or {'limit', pair…} (from 0)
-- Why atomic: an id is remembered exactly when its entry is in the journal and in the totals.
-- Amounts stay strings: Lua's numbers are doubles.
local ids = tonumber(ARGV[1])
local first = 6

local function seen_in(key)
  local found = {}
  if redis.call('EXISTS', key) == 0 then return found end
  for from = 0, ids - 1, 4000 do
    local to = math.min(from + 4000, ids) - 1
    local marks = redis.call('SMISMEMBER', key, unpack(ARGV, first + from, first + to))
    for i, mark in ipairs(marks) do
      if mark == 1 then found[#found + 1] = from + i - 1 end
    end
  end
  return found
end

local answer = { 'seen' }
for k = 1, 2 do
  for _, index in ipairs(seen_in(KEYS[k])) do answer[#answer + 1] = index end
end
if #answer > 1 then return answer end

answer = { 'limit' }
for pair = 0, (#KEYS - 3) / 2 - 1 do
  local total = redis.call('GET', KEYS[5 + pair * 2]) or '0'
  local largest = ARGV[first + ids + pair * 4 + 2]
  if #total > #largest or (#total == #largest and total > largest) then answer[#answer + 1] = pair end
end
if #answer > 1 then return answer end

for from = 0, ids - 1, 4000 do
  redis.call('SADD', KEYS[1], unpack(ARGV, first + from, first + math.min(from + 4000, ids) - 1))
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[3], '*', 'batch', ARGV[3], 'count', ARGV[5], 'lines', ARGV[4])
for pair = 0, (#KEYS - 3) / 2 - 1 do
  local at = first + ids + pair * 4
  redis.call('SADD', KEYS[4 + pair * 2], ARGV[at])
  redis.call('EXPIREAT', KEYS[4 + pair * 2], ARGV[at + 3])
  redis.call('INCRBY', KEYS[5 + pair * 2], ARGV[at + 1])
  redis.call('EXPIREAT', KEYS[5 + pair * 2], ARGV[at + 3])
end
return { 'ok' }
