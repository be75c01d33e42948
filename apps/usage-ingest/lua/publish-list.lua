-- Copies a list that a process has loaded, unless a newer version came meanwhile.
-- KEYS[1] copy, JSON that begins with its version   ARGV[1] version: `n` or `n/m`   ARGV[2] copy
-- ARGV[3] the version that was there before the list was loaded, or ''
-- Returns 1, or 0 if the copy there is newer.
-- Why atomic: an older version must never replace a newer one.
local function numbers_of(version)
  local first, second = string.match(version, '^(%d+)/?(%d*)$')
  return tonumber(first), tonumber(second) or 0
end

local known = string.match(redis.call('GETRANGE', KEYS[1], 0, 79), '^{"version":"([%d/]+)"')
if known and known ~= ARGV[3] then
  local first, second = numbers_of(known)
  local new_first, new_second = numbers_of(ARGV[1])
  if first > new_first or (first == new_first and second > new_second) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
