-- Raises the version of the price list and returns it.
with raised as (update price_list set version = version + 1 returning version::text)
select version from raised
