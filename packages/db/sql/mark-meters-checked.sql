-- Records the versions of merchants' days whose meters reconciliation found correct.
-- $1 dates   $2 merchants   $3 versions
insert into meter_checks (date, merchant_id, changes)
select * from unnest($1::date[], $2::text[], $3::bigint[])
on conflict (date, merchant_id) do update set changes = excluded.changes, checked_at = clock_timestamp()
