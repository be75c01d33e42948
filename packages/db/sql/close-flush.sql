-- Completes the record of a flush in its own transaction (a statement cannot update the row it inserted).
-- $1 flush id   $2 entries   $3 inserted   $4 merchants   $5 first date   $6 last date
update usage_flushes
set entries = $2, inserted = $3, merchants = $4, first_date = $5, last_date = $6
where id = $1
