-- $1 kinds   $2 ids   $3 merchant ids ('' for every merchant)   $4 names   $5 emails   $6 roles
insert into directory_entries as known (kind, id, merchant_id, name, email, role)
select kind, id, merchant_id, name, email, role
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
  as entry (kind, id, merchant_id, name, email, role)
order by kind, id, merchant_id
on conflict (kind, id, merchant_id) do update set
  name = excluded.name,
  email = excluded.email,
  role = excluded.role,
  updated_at = now()
-- What is the same is not written: a change of names makes every kept answer of its merchant stale.
where (known.name, known.email, known.role) is distinct from (excluded.name, excluded.email, excluded.role)
