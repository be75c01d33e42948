-- Deletes the records of days with checked meters.
-- $1 days before this one; null: all
delete from meter_checks where date < $1 or $1::date is null
