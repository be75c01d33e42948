-- The moment from which all that was counted of some days is in the journal; null where it all is.
-- $1 first date   $2 last date
select max(written_at) as known_from
from usage_closed_days
where date between $1::date and $2::date
