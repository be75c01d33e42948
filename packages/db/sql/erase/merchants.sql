-- Returns which of some merchants have erased users.
-- $1 merchant ids
select distinct merchant_id
from erased_users
where merchant_id = any($1::text[])
