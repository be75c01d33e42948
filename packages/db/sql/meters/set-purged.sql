-- Records that a removed meter has no rows any more.
-- $1 id of the meter
update meters set purged = true where id = $1
