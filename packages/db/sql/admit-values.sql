-- Admits values part by part; a part that another transaction stored is left out.
-- $1 merchants   $2 dates   $3 dimensions   $4 parts   $5 json arrays of values
-- Returns the stored parts.
insert into usage_admitted_values (merchant_id, date, dimension, part, values)
select merchant_id, date, dimension, part, array(select json_array_elements_text(values::json))
from unnest($1::text[], $2::date[], $3::smallint[], $4::int[], $5::text[])
  as part (merchant_id, date, dimension, part, values)
order by merchant_id, date, dimension, part
on conflict (merchant_id, date, dimension, part) do nothing
returning merchant_id, date, dimension
