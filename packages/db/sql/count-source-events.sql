-- Adds what a process received from sources to their states.
-- $1 sources   $2 accepted   $3 duplicates   $4 rejected   $5 skipped   $6 first seen   $7 last seen
insert into source_states as old (source, accepted, duplicates, rejected, skipped, first_seen_at, last_seen_at)
select *
from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::timestamptz[])
  as new (source, accepted, duplicates, rejected, skipped, first_seen_at, last_seen_at)
order by source
on conflict (source) do update set
  accepted = old.accepted + excluded.accepted,
  duplicates = old.duplicates + excluded.duplicates,
  rejected = old.rejected + excluded.rejected,
  skipped = old.skipped + excluded.skipped,
  first_seen_at = least(old.first_seen_at, excluded.first_seen_at),
  last_seen_at = greatest(old.last_seen_at, excluded.last_seen_at)
