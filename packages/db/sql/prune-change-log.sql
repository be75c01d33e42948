-- Removes the oldest rows of the log, except the newest of them, which records how far the log was pruned.
-- $1 rows before this moment   $2 limit
-- Ends before the first row that is younger, whose transaction began earlier, and before transactions that may still
-- commit: a row that stays before a removed one would hide from readers that something is missing behind it.
with oldest as (
  select xact, id, bool_and(at < $1) over (order by xact, id) as is_old
  from usage_change_log
  where xact < pg_snapshot_xmin(pg_current_snapshot())
  order by xact, id
  limit $2
),
old as (
  select xact, id
  from oldest
  where is_old
),
removed as (
  delete from usage_change_log as log
  using old
  where log.xact = old.xact and log.id = old.id
    and (old.xact, old.id) < (select xact, id from old order by xact desc, id desc limit 1)
  returning 1
)
select count(*)::int as removed from removed
