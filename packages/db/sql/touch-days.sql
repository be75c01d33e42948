-- Marks a merchant's days as changed, for whoever derives from them and for answers that are kept.
-- $1 merchant id   $2 days
insert into usage_touched_days as old (merchant_id, date)
select $1, date
from unnest($2::date[]) as date
order by 2
on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
