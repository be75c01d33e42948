-- Brings a merchant's saved realtime metrics back after Redis lost them, once, however many engines try.
-- KEYS[1] marker of the merchant   KEYS[2] names   KEYS[3…] pairs: series of the name, value hash
-- ARGV[1] seconds the registers are kept   ARGV[2…] for each pair: name, type, labels, meta, milliseconds that the
-- value is kept, value as JSON
-- Returns how many values came back; -1 where nothing was lost.
-- Why atomic: what was counted since the loss is added to, once; the marker says that it was done.
if redis.call('SET', KEYS[1], '1', 'NX') == false then return -1 end
local restored = 0
for pair = 0, (#KEYS - 2) / 2 - 1 do
  local at = 2 + pair * 6
  local series, value = KEYS[3 + pair * 2], KEYS[4 + pair * 2]
  local known = redis.call('HGET', KEYS[2], ARGV[at])
  if not known or known == ARGV[at + 1] then
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    redis.call('HSETNX', series, ARGV[at + 2], ARGV[at + 3])
    redis.call('EXPIRE', KEYS[2], ARGV[1])
    redis.call('EXPIRE', series, ARGV[1])
    local newer = redis.call('EXISTS', value) == 1
    for field, text in pairs(cjson.decode(ARGV[at + 5])) do
      if field == 'low' or field == 'high' then
        local old = redis.call('HGET', value, field)
        local narrower = old and ((field == 'low' and tonumber(text) >= tonumber(old))
          or (field == 'high' and tonumber(text) <= tonumber(old)))
        if not narrower then redis.call('HSET', value, field, text) end
      elseif ARGV[at + 1] ~= 'GAUGE' then
        redis.call('HINCRBY', value, field, text)
      elseif not newer then
        redis.call('HSET', value, field, text)
      end
    end
    redis.call('PEXPIRE', value, ARGV[at + 4])
    restored = restored + 1
  end
end
return restored
