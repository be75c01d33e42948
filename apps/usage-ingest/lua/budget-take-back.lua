-- Takes the notes of events back that no store took.
-- ARGV[1] in JSON, for each: event, `slot=amount,…` of it; a note with other amounts is of another event and stays
-- Returns the number of notes.
-- Why atomic: a note and its amounts go together. A reading that has seen the note must not drop it again: it fails.
local taken = 0
if is_whole() then
  for _, item in ipairs(cjson.decode(ARGV[1])) do
    local event, list = item[1], item[2]
    local text = redis.call('HGET', NOTES, event)
    if text and string.match(text, '^%d+|(.*)$') == list then
      each(parts_of(list), use, -1)
      redis.call('HDEL', NOTES, event)
      taken = taken + 1
    end
  end
end
if taken > 0 then
  save()
  redis.call('HINCRBY', SUMS, 'token', 1)
end
return taken
