-- Returns the days before $2 on which a merchant has usage.
-- $1 merchant   $2 day
select distinct date from merchant_usage where merchant_id = $1 and date < $2 order by date
