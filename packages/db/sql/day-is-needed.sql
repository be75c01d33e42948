-- Returns whether something still needs the events of a day: a flush to derive, the history of a meter, a dead letter
-- that can be retried, or an event counted since a flush.
-- $1 date   $2 id of a flush
select
  exists (select from usage_flushes where (derived_at is null or metered is null) and $1::date between first_date and last_date)
  or exists (select from meter_history where date = $1::date and not done)
  or exists (select from usage_dead_letters where date = $1::date and resolved_at is null)
  or exists (select from usage_events where date = $1::date and flush_id > $2::bigint) as found
