-- Active budgets of some merchants, and those of all merchants.
-- $1 merchants
select id
from budgets
where removed_at is null and (merchant_id = '' or merchant_id = any($1))
