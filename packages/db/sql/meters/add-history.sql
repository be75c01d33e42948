-- Records the days of a meter's history, which are computed later.
-- $1 id of the meter   $2 days
insert into meter_history (meter_id, date)
select $1, unnest($2::date[])
