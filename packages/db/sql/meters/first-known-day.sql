-- Returns the day after the last closed one; null if none was closed.
select max(date) + 1 as date from usage_closed_days
