-- Forgets which days before one were found right.
-- $1 day
delete from usage_checks
where date < $1
