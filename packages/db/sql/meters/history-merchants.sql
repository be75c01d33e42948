-- Counts the events of a day by merchant.
-- $1 date   $2 merchant before the first   $3 the only merchant, '' for all   $4 limit
select merchant_id, count(*) as events
from usage_events
where date = $1 and merchant_id > $2 and ($3 = '' or merchant_id = $3)
group by 1
order by 1
limit $4
