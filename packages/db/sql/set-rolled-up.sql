-- Records that days are rolled up, unless later ones are.
-- $1 date   $2 its last merchant, '' for none
update usage_rolled_up set date = $1, merchant_id = $2
where (date, merchant_id) < ($1::date, $2::text)
