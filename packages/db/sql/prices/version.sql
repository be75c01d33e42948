-- Returns the version of the price list.
select version::text from price_list
