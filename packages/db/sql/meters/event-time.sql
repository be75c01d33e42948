-- Returns the time of an event.
-- $1 date   $2 merchant   $3 id
select time from usage_events where date = $1 and merchant_id = $2 and id = $3
