-- Returns the lines of a batch that this transaction did not count: another one wrote the journal row of their
-- identity.
-- $1 dates   $2 merchants   $3 ids   $4 the flush of this transaction
-- Returns positions, counted from 0.
select (ordinality - 1)::int as position
from unnest($1::date[], $2::text[], $3::text[]) with ordinality as line (date, merchant_id, id, ordinality)
join usage_events as event
  on event.date = line.date and event.merchant_id = line.merchant_id and event.id = line.id
where event.flush_id <> $4
order by 1
