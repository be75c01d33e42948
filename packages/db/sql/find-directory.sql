-- Returns at most one directory entry per id. A query over one merchant prefers its own name. One over several prefers
-- the general name, and uses a merchant's only if no other merchant gives the id to somebody else.
-- $1 kind   $2 ids   $3 merchant ids of the query, null for all
select distinct on (id) id, name, email, role
from (
  select
    *,
    coalesce(cardinality($3::text[]), 0) = 1 as is_one,
    min(array[name, email]) over (partition by id) <> max(array[name, email]) over (partition by id) as differs
  from directory_entries
  where kind = $1
    and id = any($2::text[])
    and ($3::text[] is null or merchant_id = '' or merchant_id = any($3))
) as known
where is_one or merchant_id = '' or not differs
order by id, (merchant_id = '') = is_one, merchant_id
