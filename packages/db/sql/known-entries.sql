-- Returns a merchant's events that are in the journal.
-- $1 merchant   $2 dates   $3 ids, one per date
select wanted.date, wanted.id
from unnest($2::date[], $3::text[]) as wanted (date, id)
join usage_events as event on event.merchant_id = $1 and event.date = wanted.date and event.id = wanted.id
