-- Returns what earlier re-ratings added to the cost of a merchant's day, by dimensions, and their number.
-- $1 merchant   $2 date
select user_id, api_key, model, provider, sum(cost) as cost, count(*)::int as times
from usage_adjustments
where merchant_id = $1 and date = $2 and id like 'rerate:%'
group by 1, 2, 3, 4
