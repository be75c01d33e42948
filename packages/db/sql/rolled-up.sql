-- Returns the days in the rollups of months and years: those before `date`, and of `date` the merchants up to
-- `merchant_id`.
select date, merchant_id from usage_rolled_up
