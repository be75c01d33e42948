-- Counts the rows of `merchant_usage` of a date.
-- $1 date
select count(*)::int as rows
from merchant_usage
where date = $1
