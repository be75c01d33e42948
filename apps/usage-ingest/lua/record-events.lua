-- Stores the events of one or more requests: drops repeats, checks the limits of each event by itself, appends the
-- others to the journals of their shards, and adds them to the running totals.
-- KEYS three for each shard: journal stream, list of generations, ends of generations
-- KEYS then for each shard: the version of the registry of meters
-- KEYS then for each group (the events of one merchant's day): set of metric types, totals
-- ARGV[1] random text   ARGV[2] metric types per merchant and day   ARGV[3] ids at which a generation is cut
-- ARGV[4] age in ms at which it is cut   ARGV[5] age in ms at which it may be dropped   ARGV[6] generations at most
-- ARGV[7] number of shards   ARGV[8] version of the registry that the events were checked with; empty: any
-- ARGV then for each shard: prefix and suffix of its id sets, events, groups, lines (separated by newlines), the ids;
-- for each group: events (negative if some ids have several contents), merchant, expiry (Unix seconds), totals, the
-- amount of each total
-- Returns for each event that was not stored: its index from 0, and 1 repeat, 2 too many metric types,
-- 3 a total would exceed its limit, 4 the totals are unusable, 5 its id has other content. Stores nothing and returns
-- only -1 if the registry has another version.
-- Why atomic: an id is remembered exactly when its event is in the journal and in the totals. Each group and each
-- event is decided by itself, so requests may share a call. Amounts stay strings: Lua's numbers are doubles.
local REPEAT, TYPES, LIMIT, UNUSABLE, CONFLICT = 1, 2, 3, 4, 5
local MAX, NEAR_MAX, EXACT = '9000000000000000000', 8e18, 9e15
local FULL_WINDOW = 8

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Sent again after a broken connection, a call gets another batch id, so its lines have another origin.
local batch = ARGV[1] .. string.format('%x', time[1] * 1000000 + time[2])
local max_types, cut_size, cut_age, max_age, max_generations =
  tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local shards = tonumber(ARGV[7])
if ARGV[8] ~= '' then
  for s = 1, shards do
    if redis.call('GET', KEYS[shards * 3 + s]) ~= ARGV[8] then return { -1 } end
  end
end

local function passes(stream_id, other)
  local a, b = string.match(stream_id, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a > c or (a == c and b > d)
end

-- The generations of a shard, newest first, after cutting a new one and dropping old ones.
local function generations(journal, window, ends, prefix, suffix)
  local names = redis.call('LRANGE', window, 0, -1)
  local newest = tonumber(names[1] or 0)
  if newest > 0 and now - newest < cut_age then
    local size = cut_size * 2 ^ math.max(0, #names - FULL_WINDOW)
    if redis.call('SCARD', prefix .. names[1] .. suffix) < size then return names end
  end
  local function flushed(name)
    local last, oldest = redis.call('HGET', ends, name), redis.call('XRANGE', journal, '-', '+', 'COUNT', 1)[1]
    return oldest == nil or (last and passes(oldest[1], last))
  end
  local room = #names < max_generations
  if not room and not flushed(names[#names]) then return names end
  local name = string.format('%.0f', math.max(now, newest + 1))
  redis.call('LPUSH', window, name)
  local last = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', 1)[1]
  if names[1] then redis.call('HSET', ends, names[1], last and last[1] or '0-0') end
  table.insert(names, 1, name)
  while #names > 1 and (#names > max_generations or now - names[#names - 1] > max_age) and flushed(names[#names]) do
    local old = table.remove(names)
    redis.call('RPOP', window)
    redis.call('HDEL', ends, old)
    redis.call('HSET', ends, 'since', names[#names])
    redis.call('UNLINK', prefix .. old .. suffix)
  end
  return names
end

local function exceeds(key)
  local total = redis.call('GET', key)
  return string.sub(total, 1, 1) ~= '-' and (#total > #MAX or (#total == #MAX and total > MAX))
end

-- Records the metric types of new totals. Returns those new to the day, or nil if the day has too many.
local function remember(types, names, expiry)
  local known, added = redis.call('SMISMEMBER', types, unpack(names)), {}
  for n = 1, #names do
    if known[n] == 0 then added[#added + 1] = names[n] end
  end
  if #added == 0 then return added end
  redis.call('SADD', types, unpack(added))
  if redis.call('SCARD', types) > max_types then
    redis.call('SREM', types, unpack(added))
    return nil
  end
  redis.call('EXPIREAT', types, expiry)
  return added
end

-- Adds amounts to totals, all or none. Returns nil, or the reason for adding none.
local function add(keys, k, amounts, a, count, types, expiry, suffix)
  local created, names, refused, done = {}, nil, nil, 0
  for i = 1, count do
    local key, amount = keys[k + i], amounts[a + i]
    local total = redis.pcall('INCRBY', key, amount)
    if type(total) == 'table' then
      -- Redis takes no writes: OOM, READONLY, MISCONF, NOREPLICAS. It says so before the first write of a script only.
      local kind = string.match(total.err, '^%-?(%u+)')
      if kind ~= 'ERR' and kind ~= 'WRONGTYPE' then error(total.err) end
      refused = string.find(total.err, 'overflow', 1, true) and LIMIT or UNUSABLE
      break
    end
    done = i
    if total == tonumber(amount) and (total < EXACT or redis.call('GET', key) == amount) then
      created[i] = true
      names = names or {}
      names[#names + 1] = string.match(key, ':([a-z0-9_]+)' .. suffix .. '$')
    end
    if total > NEAR_MAX and exceeds(key) then
      refused = LIMIT
      break
    end
  end
  if not refused then
    if not names then return nil end
    if remember(types, names, expiry) then
      for i = 1, count do
        if created[i] then redis.call('EXPIREAT', keys[k + i], expiry) end
      end
      return nil
    end
    refused = TYPES
  end
  for i = done, 1, -1 do
    if created[i] then
      redis.call('DEL', keys[k + i])
    else
      redis.call('DECRBY', keys[k + i], amounts[a + i])
    end
  end
  return refused
end

local function split(text)
  local lines = {}
  for line in string.gmatch(text, '[^\n]+') do lines[#lines + 1] = line end
  return lines
end

-- An id of the window without its content.
local function identity_of(id) return string.match(id, '^.*\n') end

local MEASURES = { 'requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost' }

-- The totals that one line adds to, and the amounts.
local function amounts_of(line, key_of)
  local event, keys, amounts = cjson.decode(line), {}, {}
  local function put(metric_type, amount)
    keys[#keys + 1], amounts[#amounts + 1] = key_of[metric_type], amount
  end
  for _, measure in ipairs(MEASURES) do
    if event[measure] then put(measure, event[measure]) end
  end
  for metric_type, amount in pairs(event.metrics or {}) do put(metric_type, amount) end
  return keys, amounts
end

local answer, event, at, key = {}, 0, 9, shards * 4
for s = 1, shards do
  local journal, window, ends = KEYS[s * 3 - 2], KEYS[s * 3 - 1], KEYS[s * 3]
  local prefix, suffix, events, groups, text =
    ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4]
  local first = at + 4
  at = first + events + 1
  local names = generations(journal, window, ends, prefix, suffix)
  local verdict, refused, seen = {}, 0, {}
  for _, name in ipairs(names) do
    local marks = redis.call('SMISMEMBER', prefix .. name .. suffix, unpack(ARGV, first + 1, first + events))
    for i = 1, events do
      if marks[i] == 1 then seen[i] = true end
    end
  end
  -- Ids that have a content, in all groups: around a midnight, copies of an event are of two days.
  local held
  local lines, done, merchants = nil, 0, {}
  for _ = 1, groups do
    local count, merchant, expiry, totals =
      tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
    local types, amount, contested = KEYS[key + 1], at + 3, count < 0
    count = math.abs(count)
    local fresh, own = 0, count > 1 and {} or nil
    for i = done + 1, done + count do
      local id = ARGV[first + i]
      if not seen[i] and not (own and own[id]) then
        fresh = fresh + 1
        if own then own[id] = true end
      end
    end
    local before = refused
    if contested or fresh < count or add(KEYS, key + 1, ARGV, amount, totals, types, expiry, suffix) then
      -- A part of the group may be refused: decide each event by itself, in order.
      lines = lines or (fresh > 0 and split(text))
      local key_of, taken = {}, {}
      for t = 1, totals do
        key_of[string.match(KEYS[key + 1 + t], ':([a-z0-9_]+)' .. suffix .. '$')] = KEYS[key + 1 + t]
      end
      if contested and not held then
        held = {}
        for i = 1, events do
          if seen[i] then held[identity_of(ARGV[first + i])] = true end
        end
      end
      for i = done + 1, done + count do
        local id = ARGV[first + i]
        local identity = contested and identity_of(id)
        if seen[i] or taken[id] then
          verdict[i] = REPEAT
        elseif identity and held[identity] then
          verdict[i] = CONFLICT
        else
          local keys, amounts = amounts_of(lines[i], key_of)
          verdict[i] = add(keys, 0, amounts, 0, #keys, types, expiry, suffix)
          if not verdict[i] then
            taken[id] = true
            if identity then held[identity] = true end
          end
        end
        if verdict[i] then
          refused = refused + 1
          answer[#answer + 1] = event + i - 1
          answer[#answer + 1] = verdict[i]
        end
      end
    end
    if refused - before < count and merchants[#merchants] ~= merchant then merchants[#merchants + 1] = merchant end
    done = done + count
    key = key + 1 + totals
    at = amount + totals + 1
  end
  if refused < events then
    local current = prefix .. names[1] .. suffix
    if refused == 0 then
      redis.call('SADD', current, unpack(ARGV, first + 1, first + events))
    else
      lines = lines or split(text)
      local ids, kept = {}, {}
      for i = 1, events do
        if not verdict[i] then
          ids[#ids + 1] = ARGV[first + i]
          kept[#kept + 1] = lines[i]
        end
      end
      redis.call('SADD', current, unpack(ids))
      text = table.concat(kept, '\n')
    end
    redis.call(
      'XADD', journal, '*', 'batch', batch, 'count', events - refused,
      'merchants', table.concat(merchants, '\n'), 'lines', text
    )
  end
  event = event + events
end
return answer
