-- What Tally priced of a merchant's day.
-- $1 merchant   $2 date
select user_id, api_key, model, provider, call_size, reratings, priced_cost as old
from usage_priced
where merchant_id = $1 and date = $2
