-- Marks periods of a merchant as dirty.
-- $1 merchant   $2 grains   $3 first day of the period of each grain
insert into meter_marks (merchant_id, grain, period)
select $1, grain, period
from unnest($2::text[], $3::date[]) as period (grain, period)
on conflict (merchant_id, grain, period) do update set marked_at = excluded.marked_at
