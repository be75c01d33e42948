-- Returns which of these events are in the journal.
-- $1 positions   $2 merchants   $3 dates   $4 ids, all of the same length; an event near a midnight appears for both
-- days
select distinct wanted.position
from unnest($1::int[], $2::text[], $3::date[], $4::text[]) as wanted (position, merchant_id, date, id)
where exists (
  select from usage_events as event
  where event.merchant_id = wanted.merchant_id and event.date = wanted.date and event.id = wanted.id
)
