-- Returns the ids of a merchant's day that are unresolved dead letters. Runs in the transaction of a comparison.
-- $1 merchant   $2 day   $3 ids of events
select entry_id
from usage_dead_letters
where merchant_id = $1 and date = $2 and entry_id = any($3::text[]) and resolved_at is null
