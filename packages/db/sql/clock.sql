-- Returns the time of Postgres, and whether it rejects writes.
select
  clock_timestamp() as now,
  extract(epoch from clock_timestamp()) * 1000 as at,
  current_setting('transaction_read_only') = 'on' as read_only
