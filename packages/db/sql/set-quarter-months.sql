-- Records that quarters of a month are complete: those before $1, and of $1 the merchants up to $2, '' for none.
-- $1 first day of a quarter   $2 merchant
update usage_rolled_up set quarter_month = $1, quarter_merchant = $2
