-- The time that was first told of each call around a midnight; a call that is new is told its own.
-- $1 text[]: midnights, $2 text[]: merchants, $3 text[]: ids, $4 bigint[]: times in milliseconds.
-- Rows are sorted, so that two who settle the same calls do not deadlock.
insert into litellm_midnight_calls as known (midnight, merchant_id, id, time)
select distinct on (midnight, merchant_id, id) midnight, merchant_id, id, to_timestamp(ms / 1000.0)
from unnest($1::date[], $2::text[], $3::text[], $4::bigint[]) as told (midnight, merchant_id, id, ms)
order by midnight, merchant_id, id, ms
on conflict (midnight, merchant_id, id) do update set time = known.time
returning midnight, merchant_id, id, time
