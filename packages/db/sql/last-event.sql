-- When the newest event of a merchant was, in the journal.
-- $1 merchant
select time from usage_events where merchant_id = $1 order by time desc limit 1
