-- Returns the first and last day of a range on which events of a merchant were dropped from the journal.
-- $1 first day   $2 last day   $3 merchant
select min(date) as first, max(date) as last
from usage_journal_closings
where date between $1 and $2 and merchant_id = $3
