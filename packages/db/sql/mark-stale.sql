-- Marks running totals that counted a repeat, which happens when a try and its retry take different paths.
-- $1 merchants   $2 dates, one per merchant
insert into usage_stale_totals as old (merchant_id, date)
select distinct merchant_id, date
from unnest($1::text[], $2::date[]) as repeated (merchant_id, date)
order by 1, 2
on conflict (merchant_id, date) do update set marked_at = excluded.marked_at
