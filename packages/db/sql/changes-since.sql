-- Returns merchants' days that changed after a position of the log, in order of transactions, and only of finished
-- ones.
-- All of them are visible: a transaction below the oldest running one has ended.
-- $1 transaction   $2 id   $3 position in its row   $4 limit
-- Returns at least one row: the oldest running transaction, and the oldest position in the log.
select
  horizon.xact as horizon, start.xact as first,
  page.xact, page.id, page.position, page.merchant_id, page.date, page.at
from (select pg_snapshot_xmin(pg_current_snapshot()) as xact) as horizon
cross join (select min(xact) as xact from usage_change_log) as start
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
