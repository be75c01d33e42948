-- Stores directory entries.
-- $1 kinds   $2 ids   $3 merchant ids ('' for every merchant)   $4 names   $5 emails   $6 roles   $7 teams
-- $8 whether the team is given; otherwise the stored team stays
insert into directory_entries as known (kind, id, merchant_id, name, email, role, team)
select
  kind, id, merchant_id, entry.name, entry.email, entry.role,
  case when has_team then entry.team else stored.team end
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[])
  as entry (kind, id, merchant_id, name, email, role, team, has_team)
left join directory_entries as stored using (kind, id, merchant_id)
order by kind, id, merchant_id
on conflict (kind, id, merchant_id) do update set
  name = excluded.name,
  email = excluded.email,
  role = excluded.role,
  team = excluded.team,
  updated_at = now()
-- Skips unchanged rows: a change of names makes every cached answer of its merchant stale.
where (known.name, known.email, known.role, known.team)
  is distinct from (excluded.name, excluded.email, excluded.role, excluded.team)
