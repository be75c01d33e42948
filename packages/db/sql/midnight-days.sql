-- Returns events near a midnight that count on another day than that of their time.
-- $1 midnights   $2 merchants   $3 ids   $4 days, one per line
-- Returns their positions, counted from 0, and the day.
select (ordinality - 1)::int as position, known.date
from unnest($1::date[], $2::text[], $3::text[], $4::date[]) with ordinality
  as line (midnight, merchant_id, id, date, ordinality)
join usage_midnight_days as known
  on known.midnight = line.midnight and known.merchant_id = line.merchant_id and known.id = line.id
where known.date <> line.date
