-- Returns the years in which a merchant has usage, newest first.
-- $1 merchant
select make_date(year, 1, 1) as year
from (
  select min(date) as first, max(date) as last from usage_daily where merchant_id = $1
) as days
cross join lateral generate_series(extract(year from first)::int, extract(year from last)::int) as year
order by 1 desc
