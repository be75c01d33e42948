-- The same as merchants-between.sql for tables that Citus has distributed, whose nodes cannot recurse: each reads its indexes.
-- $1 first date   $2 last date
select merchant_id from usage_events where date between $1 and $2 group by 1
union
select merchant_id from usage_daily where date between $1 and $2 group by 1
union
select merchant_id
from usage_journal_closings
where date between $1 and $2
union
select merchant_id from usage_adjustments where date between $1 and $2
union
select merchant_id from usage_daily_models where date between $1 and $2
union
select merchant_id from merchant_usage where date between $1 and $2
order by 1
