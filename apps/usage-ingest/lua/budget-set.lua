-- Sets the spend that Postgres shows, and drops the notes of events included in it.
-- ARGV[1] token   ARGV[2] run   ARGV[3] number of slots   ARGV then for each slot: slot, spent; then the events to drop
-- Returns 1, or 0 if another reading started or Redis restarted: read again.
-- Why atomic: an event leaves the notes in the same step in which it becomes part of the spend.
is_whole()
if redis.call('HGET', SUMS, 'token') ~= ARGV[1] or run ~= ARGV[2] then return 0 end
local slots = tonumber(ARGV[3])
for i = 0, slots - 1 do
  local slot, spent = ARGV[4 + i * 2], ARGV[5 + i * 2]
  local before = redis.call('HGET', SUMS, slot .. ':spent')
  if before ~= spent then
    if before then redis.call('HINCRBY', SUMS, slot .. ':used', negated(before)) end
    redis.call('HINCRBY', SUMS, slot .. ':used', spent)
    redis.call('HSET', SUMS, slot .. ':spent', spent)
  end
end
for at = 4 + slots * 2, #ARGV do
  local text = redis.call('HGET', NOTES, ARGV[at])
  if text then
    each(string.match(text, '|(.*)$'), function(slot, amount) add(slot, 'noted', negated(amount)) end)
    redis.call('HDEL', NOTES, ARGV[at])
  end
end
redis.call('HSET', SUMS, 'run', run)
redis.call('HDEL', SUMS, 'rebuilding')
return 1
