-- Records dimensions of merchants' days that exceeded their limit of values.
-- $1 merchants   $2 dates   $3 dimensions
insert into usage_overflows (merchant_id, date, dimension)
select distinct *
from unnest($1::text[], $2::date[], $3::smallint[]) as overflow (merchant_id, date, dimension)
order by 1, 2, 3
on conflict do nothing
