-- Stores directory entries.
-- $1 kinds   $2 ids   $3 merchant ids ('' for every merchant)   $4 names   $5 emails   $6 roles   $7 teams
-- $8 whether the team is given; otherwise the stored team stays
-- An entry for every merchant replaces all entries that sources reported for its id.
with entry as materialized (
  select kind, id, merchant_id, sent.name, sent.email, sent.role,
    case
      when has_team then sent.team
      when stored.kind is not null then stored.team
      when merchant_id = '' then (
        select max(learned.team) from directory_entries as learned
        where learned.kind = sent.kind and learned.id = sent.id and learned.learned_at is not null)
    end as team
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[])
    as sent (kind, id, merchant_id, name, email, role, team, has_team)
  left join directory_entries as stored using (kind, id, merchant_id)
),
forgotten as (
  delete from directory_entries as learned
  using entry
  where entry.merchant_id = '' and learned.merchant_id <> '' and learned.learned_at is not null
    and learned.kind = entry.kind and learned.id = entry.id
)
insert into directory_entries as known (kind, id, merchant_id, name, email, role, team)
select kind, id, merchant_id, name, email, role, team
from entry
order by kind, id, merchant_id
on conflict (kind, id, merchant_id) do update set
  name = excluded.name,
  email = excluded.email,
  role = excluded.role,
  team = excluded.team,
  learned_at = null,
  updated_at = now()
-- Skips unchanged rows: a change of names makes every cached answer of its merchant stale.
where known.learned_at is not null
  or (known.name, known.email, known.role, known.team)
    is distinct from (excluded.name, excluded.email, excluded.role, excluded.team)
