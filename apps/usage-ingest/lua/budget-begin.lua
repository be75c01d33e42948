-- Begins to read what was spent; ends what has expired.
-- Returns the token of the reading, the run of Redis, whether the sums are whole (1), and the time in ms.
-- Why atomic: a reading that began before another one must not be set after it.
local whole = is_whole()
expire()
return { redis.call('HINCRBY', SUMS, 'token', 1), run, whole and 1 or 0, string.format('%.0f', now) }
