-- Marks a period as stale for all merchants.
-- $1 grain   $2 first day
insert into metrics_stale_periods (grain, period_start, merchant_id)
values ($1, $2, '')
on conflict do nothing
