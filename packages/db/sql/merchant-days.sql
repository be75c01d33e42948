-- Every merchant's day that has numbers, in order.
-- $1 merchant ids, null for all   $2, $3 the merchant and the date to go on after   $4 how many
select distinct merchant_id, date
from merchant_usage
where ($1::text[] is null or merchant_id = any($1)) and (merchant_id, date) > ($2::text, $3::date)
order by merchant_id, date
limit $4
