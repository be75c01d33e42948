-- What is known of some ids; one row each at most: of one merchant its own name first, of several the general one, which
-- none of them can change for the others.
-- $1 kind   $2 ids   $3 merchant ids that the question is about, null for all
select distinct on (id) id, name, email, role
from directory_entries
where kind = $1
  and id = any($2::text[])
  and ($3::text[] is null or merchant_id = '' or merchant_id = any($3))
order by id, (merchant_id = '') = (coalesce(cardinality($3::text[]), 0) = 1), merchant_id
