-- Returns what derived rollups lack, at one moment: flushes not yet added, those of them without sums, since an earlier
-- release counted them, the days of their events, and which days and quarters of a month are rolled up.
select
  coalesce(array_agg(id::text), '{}') as ids, coalesce(array_agg(id::text) filter (where not summed), '{}') as unsummed,
  min(first_date)::text as first, max(last_date)::text as last,
  (select date::text from usage_rolled_up) as date, (select merchant_id from usage_rolled_up) as merchant_id,
  (select quarter_month::text from usage_rolled_up) as quarter_month,
  (select quarter_merchant from usage_rolled_up) as quarter_merchant
from usage_flushes
where derived_at is null
