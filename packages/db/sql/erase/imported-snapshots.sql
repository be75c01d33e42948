-- Renames a user in the day snapshots of another system, which belong to no merchant.
-- $1 user   $2 pseudonym
update daily_usage_cache
set aggregated_by_user = tally_renamed(aggregated_by_user, $1, $2)
where document_keys(aggregated_by_user) @> array[$1::text] and changes is null
