-- Returns merchants' days with events that Tally priced, or tried to price.
-- $1 first day   $2 last day   $3 merchants, or null for all
select distinct merchant_id, date
from usage_events
where date between $1::date and $2::date and price_version is not null
  and ($3::text[] is null or merchant_id = any($3))
order by 1, 2
