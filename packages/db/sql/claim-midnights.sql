-- Claims the day of events near a midnight: the first copy on either side decides.
-- $1 midnights   $2 merchants   $3 ids   $4 days, one per line, in the order of the batch
-- Returns one row: the number of new claims.
with claimed as (
  insert into usage_midnight_days (midnight, merchant_id, id, date)
  select midnight, merchant_id, id, date
  from unnest($1::date[], $2::text[], $3::text[], $4::date[]) with ordinality
    as line (midnight, merchant_id, id, date, ordinality)
  order by midnight, merchant_id, id, ordinality
  on conflict (midnight, merchant_id, id) do nothing
  returning 1
)
select count(*)::int as claimed
from claimed
