-- Returns a page of directory entries: those of some merchants and the general ones; for the kind merchant, only their
-- own.
-- $1 kind   $2 merchant ids, null for all   $3 $4 id and merchant id of the last row before the page   $5 limit
-- $6 a merchant, to include only general entries with ids from its usage; null: all of them
-- $7 a part of the id, the name or the e-mail address, in any case; null: any   $8 ids, null for all
-- Reads the small yearly rollup, and what is not yet added to it.
select id, merchant_id, name, email, role, team
from directory_entries
where kind = $1
  and ($8::text[] is null or id = any($8))
  and ($2::text[] is null or merchant_id = '' or merchant_id = any($2))
  and ($2 is null or kind <> 'merchant' or id = any($2))
  and ($3::text is null or (id, merchant_id) > ($3, $4::text))
  and ($7::text is null or position(lower($7) in lower(concat_ws(E'\n', id, name, email))) > 0)
  and (
    $6::text is null
    or merchant_id = $6
    or kind = 'merchant'
    or kind = 'user' and id in (
      select user_id from usage_yearly where merchant_id = $6
      union all
      select user_id from usage_pending where merchant_id = $6
      union all
      select user_id from usage_daily
      where merchant_id = $6 and (date, merchant_id) > (select date, merchant_id from usage_rolled_up)
    )
    or kind = 'apiKey' and id in (
      select api_key from usage_yearly where merchant_id = $6
      union all
      select api_key from usage_pending where merchant_id = $6
      union all
      select api_key from usage_daily
      where merchant_id = $6 and (date, merchant_id) > (select date, merchant_id from usage_rolled_up)
    )
  )
order by id, merchant_id
limit $5
