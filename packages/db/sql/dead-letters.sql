-- Dead letters, oldest first.
-- $1 merchant, null for all   $2 ids, null for all   $3 go on after this id   $4 how many   $5 resolved ones too
select id, merchant_id, date, entry_id, line, code, message, created_at, attempts, resolved_at
from usage_dead_letters
where ($1::text is null or merchant_id = $1)
  and ($2::bigint[] is null or id = any($2))
  and id > $3
  and ($5 or resolved_at is null)
order by id
limit $4
