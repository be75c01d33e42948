-- Returns the time of a merchant's newest event in the journal.
-- $1 merchant
select time from usage_events where merchant_id = $1 order by time desc limit 1
