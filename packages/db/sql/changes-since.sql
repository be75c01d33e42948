-- Returns merchants' days that changed after a position of the log, in order of transactions, and only of finished
-- ones.
-- All of them are visible: a transaction below the oldest running one has ended.
-- $1 transaction   $2 id   $3 position in its row   $4 limit
-- Returns at least one row: the end of the last row that readers get now, and whether the log has everything after $1.
-- It has not if the row is unknown: pruned, or lost with a restore or a failover. Nor if transactions count from a lower
-- number again, as on the server that a dump was restored to.
select
  $1::xid8 <= greatest(horizon.xact, start.xact)
    and exists (select 1 from usage_change_log as known where (known.xact, known.id) = ($1::xid8, $2::bigint)) as is_kept,
  coalesce(last.xact, start.xact) as last_xact, coalesce(last.id, start.id) as last_id,
  coalesce(last.position, 0) as last_position,
  page.xact, page.id, page.position, page.merchant_id, page.date, page.at
from (select pg_snapshot_xmin(pg_current_snapshot()) as xact) as horizon
cross join (select xact, id from usage_change_log order by xact, id limit 1) as start
left join lateral (
  select log.xact, log.id, cardinality(log.dates) as position
  from usage_change_log as log
  where log.xact < horizon.xact
  order by log.xact desc, log.id desc
  limit 1
) as last on true
left join lateral (
  select log.xact, log.id, pair.position, pair.merchant_id, pair.date, log.at
  from usage_change_log as log
  cross join lateral unnest(merchant_ids, dates) with ordinality as pair (merchant_id, date, position)
  where (log.xact, log.id) >= ($1::xid8, $2::bigint) and log.xact < horizon.xact
    and ((log.xact, log.id) > ($1::xid8, $2::bigint) or pair.position > $3)
  order by log.xact, log.id, pair.position
  limit $4
) as page on true
order by page.xact, page.id, page.position
