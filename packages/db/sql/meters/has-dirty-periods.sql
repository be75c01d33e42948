-- Returns whether there are dirty periods, perhaps with dirty finer ones.
-- $1 grains   $2 first period of each that is not over   $3 ms without writes for each
select exists (
  select
  from unnest($1::text[], $2::date[], $3::float8[]) as due (grain, open, quiet_ms)
  join meter_marks as mark on mark.grain = due.grain and mark.period < due.open
    and mark.marked_at <= clock_timestamp() - due.quiet_ms * interval '1 millisecond'
) as found
