-- Starts a reading of spend, and ends expired reservations.
-- Returns the token of the reading, the run of Redis, whether the sums are complete (1), and the time in ms.
-- Why atomic: an older reading must not be set after a newer one.
local whole = is_whole()
expire()
save()
return { redis.call('HINCRBY', SUMS, 'token', 1), run, whole and 1 or 0, string.format('%d', now) }
