-- Marks the coarser periods of folded ones as dirty.
-- $1 merchants   $2 folded period of each   $3 coarser grain   $4 what Postgres calls it
insert into meter_marks (merchant_id, grain, period)
select distinct merchant_id, $3::text, date_trunc($4::text, period)::date
from unnest($1::text[], $2::date[]) as folded (merchant_id, period)
on conflict (merchant_id, grain, period) do update set marked_at = excluded.marked_at
