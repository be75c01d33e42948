-- Lines of bills in force, summed over accounts. An unknown quantity or amount makes the sum unknown. `rounding`: how
-- much all lines together may be rounded by, times two.
-- $1 days   $2 bills, one for each day   $3 how many at most
select
  bills.kind, line.date::text as date, line.model, line.class,
  case when count(*) = count(line.quantity) then sum(line.quantity) end::text as quantity,
  case when count(*) = count(line.amount) then sum(line.amount) end::text as amount,
  sum(line.lines * bills.rounding)::text as rounding
from unnest($1::date[], $2::bigint[]) as day (date, bill_id)
join bill_lines as line on line.bill_id = day.bill_id and line.date = day.date
join bills on bills.id = line.bill_id
group by 1, 2, 3, 4
order by 2, 3, 4, 1
limit $3
