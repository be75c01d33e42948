-- Marks totals that may have counted a repeat, as it happens when a try and its retry came by different ways.
-- $1 merchants   $2 dates
insert into usage_stale_totals as old (merchant_id, date)
select merchant_id, date
from unnest($1::text[]) as merchant_id
cross join (select distinct date from unnest($2::date[]) as date) as dates
order by 1, 2
on conflict (merchant_id, date) do update set marked_at = excluded.marked_at
