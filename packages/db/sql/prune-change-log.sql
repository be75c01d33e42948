-- Removes the oldest rows of the log, except the newest of them, which records how far the log was pruned.
-- $1 rows before this moment   $2 limit
with old as (
  select xact, id
  from (select xact, id, at from usage_change_log order by xact, id limit $2) as oldest
  where at < $1
),
removed as (
  delete from usage_change_log as log
  using old
  where log.xact = old.xact and log.id = old.id
    and (old.xact, old.id) < (select xact, id from old order by xact desc, id desc limit 1)
  returning 1
)
select count(*)::int as removed from removed
