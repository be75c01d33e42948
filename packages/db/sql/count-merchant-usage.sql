-- Counts the rows of a date in the table that billing reads.
-- $1 date
select count(*)::int as rows
from merchant_usage
where date = $1
