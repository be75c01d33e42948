-- Notes that a reconciliation found numbers that differ.
-- $1 when   $2 how many   $3 json array of some of them
insert into drift_days as old (found_on, numbers, examples, found_at)
values (($1::timestamptz at time zone 'UTC')::date, $2, $3::jsonb, $1)
on conflict (found_on) do update set
  numbers = greatest(old.numbers, excluded.numbers),
  examples = case when excluded.numbers > old.numbers then excluded.examples else old.examples end,
  found_at = greatest(old.found_at, excluded.found_at)
