-- Sets the spend that Postgres shows, and drops the notes of events included in it.
-- ARGV[1] token   ARGV[2] run   ARGV[3] number of slots   ARGV then for each slot: slot, spent or '' to leave it, amount
-- of the notes to drop; then the events to drop
-- Returns 1, or 0 if another reading started or Redis restarted: read again.
-- Why atomic: an event leaves the notes in the same step in which it becomes part of the spend.
-- Only a reading drops notes, and a later reading has another token, so the amounts of the caller are still right.
local AT_ONCE = 1000
is_whole()
if redis.call('HGET', SUMS, 'token') ~= ARGV[1] or run ~= ARGV[2] then return 0 end
local slots = tonumber(ARGV[3])
for i = 0, slots - 1 do
  local slot, spent, dropped = ARGV[4 + i * 3], ARGV[5 + i * 3], ARGV[6 + i * 3]
  local before = redis.call('HGET', SUMS, slot .. ':spent')
  if spent ~= '' and before ~= spent then
    if before then use(slot, negated(before)) end
    use(slot, spent)
    redis.call('HSET', SUMS, slot .. ':spent', spent)
  end
  if dropped ~= '0' then use(slot, negated(dropped)) end
end
for at = 4 + slots * 3, #ARGV, AT_ONCE do
  redis.call('HDEL', NOTES, unpack(ARGV, at, math.min(at + AT_ONCE - 1, #ARGV)))
end
redis.call('HSET', SUMS, 'run', run)
redis.call('HDEL', SUMS, 'rebuilding')
return 1
