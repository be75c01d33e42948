-- Deletes the records of checked days before a day.
-- $1 day
delete from usage_checks
where date < $1
