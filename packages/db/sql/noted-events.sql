-- Returns which of these events are in the journal: their positions, from 1, separated by commas.
-- $1 merchants   $2 dates   $3 ids, all of the same length
select coalesce(string_agg(wanted.position::text, ','), '') as positions
from unnest($1::text[], $2::date[], $3::text[]) with ordinality as wanted (merchant_id, date, id, position)
join usage_events as event
  on event.merchant_id = wanted.merchant_id and event.date = wanted.date and event.id = wanted.id
