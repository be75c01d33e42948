-- Sets the spend that Postgres shows, and drops the notes of events included in it.
-- ARGV[1] token   ARGV[2] run   ARGV[3] `last` in the last call of a reading   ARGV[4] in JSON, for each slot: slot,
-- spent or '' to leave it, amount of the notes to drop; then the events to drop
-- Returns 1, or 0 if another reading started or Redis restarted: read again.
-- Why atomic: an event leaves the notes in the same step in which it becomes part of the spend.
-- Only a reading drops notes, and a later reading has another token, so the amounts of the caller are still right. The
-- last call ends the token: sent again after its answer was lost, it would drop the same amounts once more.
is_whole()
if redis.call('HGET', SUMS, 'token') ~= ARGV[1] or run ~= ARGV[2] then return 0 end
local items, names, fields, events = cjson.decode(ARGV[4]), {}, {}, {}
for i, item in ipairs(items) do names[i] = item[1] end
read_sums(names)
for _, item in ipairs(items) do
  local slot, spent, dropped = unpack(item)
  local before = sums_of(slot).spent
  if spent ~= '' and before ~= spent then
    if before then use(slot, before, -1) end
    use(slot, spent, 1)
    fields[#fields + 1], fields[#fields + 2] = slot .. ':spent', spent
  end
  if dropped ~= '0' then use(slot, dropped, -1) end
end
save()
in_pages('HSET', SUMS, fields)
for at = 5, #ARGV do events[at - 4] = ARGV[at] end
in_pages('HDEL', NOTES, events)
if ARGV[3] == 'last' then
  -- A small hash without a long text is a list, which Redis searches from its start for each field.
  redis.call('HSET', SUMS, 'run', run, 'about', 'used = spent + noted + reserved; amounts in the smallest unit of each budget')
  redis.call('HDEL', SUMS, 'rebuilding')
  redis.call('HINCRBY', SUMS, 'token', 1)
end
return 1
