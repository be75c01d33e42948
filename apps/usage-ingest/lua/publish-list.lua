-- Copies a list that a process has loaded, unless a newer version came meanwhile.
-- KEYS[1] copy, JSON that begins with its version   KEYS[2] the parts of a long list, written before
-- ARGV[1] version: `n` or `n/m`   ARGV[2] copy: the list, or what names its parts
-- ARGV[3] the version that was there before the list was loaded, or ''
-- Returns 1, or 0 if the copy there is newer.
-- Why atomic: an older version must never replace a newer one.
local function numbers_of(version)
  local first, second = string.match(version, '^(%d+)/?(%d*)$')
  return tonumber(first), tonumber(second) or 0
end

-- Readers of replaced parts have this long.
local LOOSE_SECONDS = 600

local head = redis.call('GETRANGE', KEYS[1], 0, 159)
local known = string.match(head, '^{"version":"([%d/]+)"')
if known and known ~= ARGV[3] then
  local first, second = numbers_of(known)
  local new_first, new_second = numbers_of(ARGV[1])
  if first > new_first or (first == new_first and second > new_second) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PERSIST', KEYS[2])
local parts = string.match(head, '^{"version":"[%d/]+","parts":{"id":"([%x-]+)"')
if parts then redis.call('EXPIRE', '{' .. KEYS[1] .. '}:' .. parts, LOOSE_SECONDS) end
return 1
