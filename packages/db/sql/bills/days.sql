-- The bill in force on each day, by account and kind.
-- $1 provider   $2 account, or null for all   $3 first day   $4 last day
select bills.account, bills.kind, day::date::text as date, max(bills.id)::text as bill_id
from bills, generate_series(greatest(bills.start_date, $3::date), least(bills.end_date, $4::date), interval '1 day') as day
where bills.provider = $1 and ($2::text is null or bills.account = $2)
  and bills.start_date <= $4::date and bills.end_date >= $3::date
group by 1, 2, 3
