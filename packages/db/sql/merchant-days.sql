-- Returns merchant-days with numbers, in order.
-- $1 merchant ids, null for all   $2, $3 last merchant and date before the page   $4 limit
select distinct merchant_id, date
from merchant_usage
where ($1::text[] is null or merchant_id = any($1)) and (merchant_id, date) > ($2::text, $3::date)
order by merchant_id, date
limit $4
