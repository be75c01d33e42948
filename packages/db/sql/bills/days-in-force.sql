-- How many days of bills no newer bill of the same provider, account and kind covers.
-- $1 ids
select bill.id::text as id, count(*) filter (where not exists (
    select from bills as newer
    where newer.provider = bill.provider and newer.account = bill.account and newer.kind = bill.kind
      and newer.id > bill.id and day::date between newer.start_date and newer.end_date
  ))::int as days
from bills as bill, generate_series(bill.start_date, bill.end_date, interval '1 day') as day
where bill.id = any($1::bigint[])
group by bill.id
