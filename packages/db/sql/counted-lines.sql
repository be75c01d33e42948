-- Returns the lines that were counted themselves: the journal row of their identity has their origin. A row without
-- origin was written by the previous release: it belongs to a line from a stream that this release could flush.
-- $1 dates   $2 merchants   $3 ids   $4 origins   $5 prefix of origins from such streams
-- Returns positions, counted from 0.
select (ordinality - 1)::int as position
from unnest($1::date[], $2::text[], $3::text[], $4::text[]) with ordinality
  as line (date, merchant_id, id, origin, ordinality)
join usage_events as event
  on event.date = line.date and event.merchant_id = line.merchant_id and event.id = line.id
where case when event.origin is null then starts_with(line.origin, $5) else event.origin = line.origin end
