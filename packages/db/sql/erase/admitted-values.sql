-- Renames a user among the admitted values.
-- $1 merchant   $2 user   $3 pseudonym
update usage_admitted_values
set "values" = array_replace("values", $2, $3)
where merchant_id = $1 and dimension = 0 and $2 = any("values")
