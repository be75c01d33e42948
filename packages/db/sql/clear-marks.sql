-- Clears marks of written days, each only if nothing was written to its day since it was read. A flush that is writing
-- holds its row: waiting for it would be in vain, and could deadlock, so such marks stay.
-- $1 merchant ids   $2 days   $3 versions   Returns how many marks it cleared.
with free as (
  select mark.merchant_id, mark.date
  from usage_touched_days as mark
  join unnest($1::text[], $2::date[], $3::text[]) as read (merchant_id, date, version)
    on mark.merchant_id = read.merchant_id and mark.date = read.date and mark.xmin::text = read.version
  for update of mark skip locked
),
cleared as (
  delete from usage_touched_days as mark using free
  where mark.merchant_id = free.merchant_id and mark.date = free.date
  returning 1
)
select count(*) as cleared
from cleared
