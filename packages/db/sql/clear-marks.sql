-- Clears marks of changed days, unless their day changed again since the marks were read. Skips rows that a running
-- flush has locked: waiting would be useless, and could deadlock.
-- $1 merchant ids   $2 days   $3 versions   Returns the number of cleared marks.
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
