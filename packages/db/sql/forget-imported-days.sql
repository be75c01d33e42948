-- Deletes the imported snapshots of days whose rows were counted instead.
-- $1 days
delete from daily_usage_cache
where date = any($1::date[]) and changes is null
