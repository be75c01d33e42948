-- Renames a user in the stored values of custom metrics.
-- $1 merchant   $2 user   $3 pseudonym
update custom_metric_values
set rows = tally_renamed(rows, $2, $3)
where merchant_id = $1
  and strpos(rows::text, to_jsonb($2::text)::text) > 0
