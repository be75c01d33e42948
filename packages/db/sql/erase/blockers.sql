-- Returns active budgets of a user, and active meters whose filters name the user.
-- $1 merchant   $2 user
select 'budget' as kind, id::text as name
from budgets
where removed_at is null and merchant_id in ('', $1) and user_id = $2
union all
select 'meter', key
from meters
where removed_at is null and merchant_id in ('', $1) and filters -> 'user' ? $2
order by 1, 2
limit 10
