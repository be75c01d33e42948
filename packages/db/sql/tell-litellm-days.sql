-- Records whether days are counted by calls or by sums, unless that is recorded; returns the record of each.
-- $1 date[]: days, $2 text: calls or sums.
insert into litellm_days as known (date, told_by)
select date, $2
from unnest($1::date[]) as asked (date)
order by date
on conflict (date) do update set told_by = coalesce(known.told_by, excluded.told_by)
returning date, told_by
