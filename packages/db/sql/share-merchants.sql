-- Takes the locks of merchants for one transaction, shared with other writers. Returns merchants whose lock was not
-- free.
-- $1 seed   $2 locks   $3 merchant ids   $4 whether to wait for locks that are not free
with locks as materialized (
  select distinct (hashtextextended(merchant_id, 0) & ($2 - 1))::int as lock
  from unnest($3::text[]) as merchant_id
  order by lock
),
taken as materialized (
  select
    lock,
    case
      when $4 then pg_advisory_xact_lock_shared($1, lock) is not null
      else pg_try_advisory_xact_lock_shared($1, lock)
    end as free
  from locks
)
select distinct merchant_id
from unnest($3::text[]) as merchant_id
where (hashtextextended(merchant_id, 0) & ($2 - 1))::int in (select lock from taken where not free)
