-- Returns events that were not counted because another event has their id, oldest day first.
-- $1 first date   $2 last date   $3 merchant ids, null for all   $4 date and $5 id of the last one before, null to
-- begin   $6 limit
select id, merchant_id, date, entry_id, time, digest, counted_time, counted_digest, line, source, recorded_at
from usage_conflicts
where date between $1 and $2
  and ($3::text[] is null or merchant_id = any($3))
  and ($4::date is null or (date, id) > ($4::date, $5::bigint))
order by date, id
limit $6
