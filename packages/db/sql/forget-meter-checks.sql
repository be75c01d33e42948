-- Forgets which days' meters were found right.
-- $1 days before this one; null: all
delete from meter_checks where date < $1 or $1::date is null
