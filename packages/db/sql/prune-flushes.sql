-- Removes records of flushes that no event refers to: a day after a flush that counted nothing, and once all its days
-- are closed. A day before the first remaining partition has no events.
-- $1 limit
with kept as (
  select coalesce(min(to_date(right(child.relname, 8), 'YYYYMMDD')), current_date) as first_day
  from pg_inherits
  join pg_class as child on child.oid = inhrelid
  where inhparent = 'usage_events'::regclass and child.relname ~ '^usage_events_\d{8}$'
),
old as (
  select id
  from usage_flushes, kept
  where derived_at is not null and metered is not null
    and (last_date < first_day or (inserted = 0 and started_at < now() - interval '1 day'))
  order by id
  limit $1
),
-- Sums that an earlier release left when it derived the flush.
removed_sums as (
  delete from usage_flush_sums using old where flush_id = old.id
),
removed as (
  delete from usage_flushes using old where usage_flushes.id = old.id returning 1
)
select count(*) as removed from removed
