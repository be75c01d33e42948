-- Stores names that a source reports. Entries that somebody wrote stay: the merchant's own, and those for every merchant.
-- A report of an earlier time does not replace a later one. Erased users are skipped.
-- $1 kinds   $2 ids   $3 merchant ids ('' for every merchant)   $4 names, null where only the team is reported   $5 emails
-- $6 teams   $7 times
insert into directory_entries as known (kind, id, merchant_id, name, email, team, learned_at)
select
  kind, id, merchant_id, coalesce(entry.name, stored.name, id), coalesce(entry.email, stored.email),
  coalesce(entry.team, stored.team), entry.at
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
  as entry (kind, id, merchant_id, name, email, team, at)
left join directory_entries as stored using (kind, id, merchant_id)
where not exists (
    select from directory_entries as written
    where written.kind = entry.kind and written.id = entry.id and written.merchant_id = '' and written.learned_at is null
  )
  and not exists (
    select from erased_users as erased
    where entry.kind = 'user' and erased.merchant_id = entry.merchant_id
      and erased.digest = encode(sha256(convert_to(entry.merchant_id || chr(10) || entry.id, 'UTF8')), 'hex')
  )
order by kind, id, merchant_id
on conflict (kind, id, merchant_id) do update set
  name = excluded.name,
  email = excluded.email,
  team = excluded.team,
  learned_at = excluded.learned_at,
  updated_at = now()
-- Skips unchanged rows: a change of names makes every cached answer of its merchant stale.
where known.learned_at <= excluded.learned_at
  and (known.name, known.email, known.team) is distinct from (excluded.name, excluded.email, excluded.team)
