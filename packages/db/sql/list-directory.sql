-- Of some merchants: their own entries and those for every merchant; of merchants themselves these alone.
-- $1 kind   $2 merchant ids, null for all   $3 $4 id and merchant id of the last row before the page   $5 how many
select id, merchant_id, name, email, role
from directory_entries
where kind = $1
  and ($2::text[] is null or merchant_id = '' or merchant_id = any($2))
  and ($2 is null or kind <> 'merchant' or id = any($2))
  and ($3::text is null or (id, merchant_id) > ($3, $4::text))
order by id, merchant_id
limit $5
