-- $1 bill   $2 days   $3 models   $4 classes   $5 quantities   $6 amounts   $7 numbers of lines
insert into bill_lines (bill_id, date, model, class, quantity, amount, lines)
select $1::bigint, date, model, class, quantity, amount, lines
from unnest($2::date[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::int[])
  as line (date, model, class, quantity, amount, lines)
