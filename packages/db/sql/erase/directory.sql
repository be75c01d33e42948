-- Removes a user from the directory: the merchant's own entry, and optionally the general one.
-- $1 merchant   $2 user   $3 whether to remove the general entry
delete from directory_entries
where kind = 'user' and id = $2 and (merchant_id = $1 or ($3 and merchant_id = ''))
