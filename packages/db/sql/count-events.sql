-- Counts the events of a merchant in the journal on some days, at most $4.
-- $1 merchant   $2 first date   $3 last date   $4 limit
select count(*) as events
from (
  select
  from usage_events
  where merchant_id = $1 and date between $2 and $3
  limit $4
) as found
