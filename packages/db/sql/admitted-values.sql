-- Returns the admitted values of some merchants' days.
-- $1 merchants   $2 dates, one per merchant
select admitted.merchant_id, admitted.date, admitted.dimension, admitted.part, admitted.values
from unnest($1::text[], $2::date[]) as wanted (merchant_id, date)
cross join lateral (
  select *
  from usage_admitted_values as known
  where known.merchant_id = wanted.merchant_id and known.date = wanted.date
  order by known.dimension, known.part
) as admitted
