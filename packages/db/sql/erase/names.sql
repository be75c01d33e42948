-- Returns the pseudonyms of the erased users among some users.
-- $1 merchant ids   $2 users, one per merchant
select pair.merchant_id, pair.user_id, erased.pseudonym
from unnest($1::text[], $2::text[]) as pair (merchant_id, user_id)
join erased_users as erased
  on erased.merchant_id = pair.merchant_id
  and erased.digest = encode(sha256(convert_to(pair.merchant_id || chr(10) || pair.user_id, 'UTF8')), 'hex')
