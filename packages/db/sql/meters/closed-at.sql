-- Returns when days were closed; open days are left out.
-- $1 dates
select date, closed_at from usage_closed_days where date = any($1::date[])
