-- Returns at most one directory entry per id. A query over one merchant prefers its own name; over several it uses the
-- general name, which none of them can change for the others.
-- $1 kind   $2 ids   $3 merchant ids of the query, null for all
select distinct on (id) id, name, email, role
from directory_entries
where kind = $1
  and id = any($2::text[])
  and ($3::text[] is null or merchant_id = '' or merchant_id = any($3))
order by id, (merchant_id = '') = (coalesce(cardinality($3::text[]), 0) = 1), merchant_id
