-- Removes a user from the directory: the merchant's own entry, and with $3 the one for every merchant.
-- $1 merchant   $2 user   $3 whether the one for every merchant goes too
delete from directory_entries
where kind = 'user' and id = $2 and (merchant_id = $1 or ($3 and merchant_id = ''))
