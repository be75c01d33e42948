-- Records that a day of the journal is closed.
-- $1 date   $2 its events   $3 their last write, null where it is not known
insert into usage_closed_days (date, entries, written_at)
values ($1, $2, coalesce($3::timestamptz, clock_timestamp()))
