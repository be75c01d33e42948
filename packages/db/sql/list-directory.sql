-- Of some merchants: their own entries and those for every merchant; of merchants themselves only these.
-- $1 kind   $2 merchant ids, null for all   $3 $4 id and merchant id of the last row before the page   $5 how many
-- $6 a merchant: entries for every merchant only where their ids occur in its usage; null: all of them
-- The yearly sums are small; what is still to be added to them is read, too.
select id, merchant_id, name, email, role, team
from directory_entries
where kind = $1
  and ($2::text[] is null or merchant_id = '' or merchant_id = any($2))
  and ($2 is null or kind <> 'merchant' or id = any($2))
  and ($3::text is null or (id, merchant_id) > ($3, $4::text))
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
