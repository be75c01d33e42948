-- Returns those of some merchants that have erased users.
-- $1 merchant ids
select distinct merchant_id
from erased_users
where merchant_id = any($1::text[])
