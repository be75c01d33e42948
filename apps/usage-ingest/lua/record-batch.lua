-- Stores one batch of a merchant: remembers its ids, appends it to the journal, adds it to the totals.
-- All or nothing: where an id was seen, a limit is met, or a total would pass its limit, nothing is written and the
-- answer says which.
-- KEYS[1] ids seen in the current period   KEYS[2] ids seen in the previous period   KEYS[3] journal stream
-- KEYS[4…] bounded sets (a day's metric types, a day's dimensions), then totals
-- ARGV[1] seconds the current period's ids are kept   ARGV[2] batch id   ARGV[3] journal lines   ARGV[4] number of lines
-- ARGV[5] the days of the lines, comma separated   ARGV[6] number of ids, then the ids
-- then: number of bounded sets; for each: most members, moment of expiry (Unix seconds), number of members, the members
-- then for each total: amount, the largest value before it, moment of expiry
-- Returns {'ok'}, {'seen', id…}, {'full', set, member…} or {'limit', total…}, all by index from 0
-- Why atomic: an id is remembered exactly when its entry is in the journal and in the totals.
-- Amounts stay strings: Lua's numbers are doubles.
local CHUNK = 4000
local at = 6

local function marks_of(key, first, count, wanted)
  local found = {}
  if wanted == 1 and redis.call('EXISTS', key) == 0 then return found end
  for from = 0, count - 1, CHUNK do
    local to = math.min(from + CHUNK, count) - 1
    for i, mark in ipairs(redis.call('SMISMEMBER', key, unpack(ARGV, first + from, first + to))) do
      if mark == wanted then found[#found + 1] = from + i - 1 end
    end
  end
  return found
end

local function add(key, first, count)
  for from = 0, count - 1, CHUNK do
    redis.call('SADD', key, unpack(ARGV, first + from, first + math.min(from + CHUNK, count) - 1))
  end
end

local ids, first_id = tonumber(ARGV[at]), at + 1
at = first_id + ids
local answer = { 'seen' }
for k = 1, 2 do
  for _, index in ipairs(marks_of(KEYS[k], first_id, ids, 1)) do answer[#answer + 1] = index end
end
if #answer > 1 then return answer end

local sets, first_set = tonumber(ARGV[at]), at + 1
at = first_set
for s = 1, sets do
  local most, members = tonumber(ARGV[at]), tonumber(ARGV[at + 2])
  local new = marks_of(KEYS[3 + s], at + 3, members, 0)
  if #new > 0 and redis.call('SCARD', KEYS[3 + s]) + #new > most then return { 'full', s - 1, unpack(new) } end
  at = at + 3 + members
end

local first_total = at
answer = { 'limit' }
for t = 0, #KEYS - 4 - sets do
  local total = redis.call('GET', KEYS[4 + sets + t]) or '0'
  local largest = ARGV[first_total + t * 3 + 1]
  -- A total below 0 is below every limit; only digits are compared as text.
  local digits = total:sub(1, 1) ~= '-'
  if digits and (#total > #largest or (#total == #largest and total > largest)) then answer[#answer + 1] = t end
end
if #answer > 1 then return answer end

add(KEYS[1], first_id, ids)
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'batch', ARGV[2], 'count', ARGV[4], 'days', ARGV[5], 'lines', ARGV[3])
at = first_set
for s = 1, sets do
  local members = tonumber(ARGV[at + 2])
  add(KEYS[3 + s], at + 3, members)
  redis.call('EXPIREAT', KEYS[3 + s], ARGV[at + 1])
  at = at + 3 + members
end
for t = 0, #KEYS - 4 - sets do
  redis.call('INCRBY', KEYS[4 + sets + t], ARGV[first_total + t * 3])
  redis.call('EXPIREAT', KEYS[4 + sets + t], ARGV[first_total + t * 3 + 2])
end
return { 'ok' }
