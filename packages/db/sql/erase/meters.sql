-- Renames a user in the filters of removed meters; active ones do not name it.
-- $1 merchant   $2 user   $3 pseudonym
update meters
set filters = tally_renamed(filters, $2, $3)
where removed_at is not null and merchant_id = $1 and filters -> 'user' ? $2
