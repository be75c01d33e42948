-- Returns the version of the price list; it stays the newest until the transaction ends.
select version::text from price_list for update
