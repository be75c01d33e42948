-- The dead letters of some merchants that nobody has resolved.
-- $1 merchants
select id, line
from usage_dead_letters
where merchant_id = any($1::text[]) and resolved_at is null
order by id
