-- $1 kind   $2 ids   $3 merchant id ('' for the entries for every merchant)
with removed as (
  delete from directory_entries
  where kind = $1 and id = any($2::text[]) and merchant_id = $3
  returning 1
)
select count(*) as removed
from removed
