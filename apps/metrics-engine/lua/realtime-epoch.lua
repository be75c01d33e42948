-- Returns whether a merchant's realtime metrics are complete here, and numbers the copies made of them.
-- KEYS[1] marker of the merchant
-- ARGV[1] the server run that the values were read from, '' to begin with   ARGV[2] 1: number the next copy, else 0
-- ARGV[3] milliseconds since 1970 from which everything was saved, '' for not yet
-- Returns run, epoch, and the ARGV[3] of the previous copy ('' for none); nothing if the metrics are lost or older.
-- Why atomic: values read before a restart must not become a copy that counts as newer.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('HGET', KEYS[1], 'run') ~= run or (ARGV[1] ~= '' and ARGV[1] ~= run) then return {} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', ARGV[2])
local saved = redis.call('HGET', KEYS[1], 'saved') or ''
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'saved', ARGV[3]) end
return { run, tostring(epoch), saved }
