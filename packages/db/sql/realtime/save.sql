-- Stores copies of realtime metrics, replacing older ones.
-- $1 metrics, as JSON
insert into realtime_metrics_cache (merchant_id, name, labels, slice, type, meta, value, epoch, expires_at)
select "merchantId", name, labels, slice, type, meta, value, epoch, to_timestamp("expiresAt" / 1000.0)
from jsonb_to_recordset($1::jsonb) as metric (
  "merchantId" text, name text, labels text, slice bigint, type text, meta jsonb, value jsonb, epoch bigint,
  "expiresAt" bigint)
order by 1, 2, 3, 4
on conflict (merchant_id, name, labels, slice) do update set
  type = excluded.type,
  meta = excluded.meta,
  value = excluded.value,
  epoch = excluded.epoch,
  saved_at = now(),
  expires_at = excluded.expires_at
-- Two engines may save at once: the copy with the higher number was read later.
where realtime_metrics_cache.epoch <= excluded.epoch
