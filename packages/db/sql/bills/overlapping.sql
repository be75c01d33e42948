-- Bills in force on days of a period: how many of these days each has, and whether it is the same file with all its days.
-- $1 provider   $2 account   $3 kind   $4 first day   $5 last day   $6 hash of the file
select
  bills.id::text as id, count(*)::int as days,
  bills.file_hash = $6 and count(*) = bills.end_date - bills.start_date + 1 as same
from generate_series($4::date, $5::date, interval '1 day') as day
join lateral (
  select id, file_hash, start_date, end_date
  from bills
  where provider = $1 and account = $2 and kind = $3 and day::date between start_date and end_date
  order by id desc
  limit 1
) as bills on true
group by bills.id, bills.file_hash, bills.start_date, bills.end_date
order by bills.id
