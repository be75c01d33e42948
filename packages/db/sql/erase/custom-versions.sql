-- Renames a user in the versions of custom metrics.
-- $1 merchant   $2 user   $3 pseudonym
update custom_metric_versions
set definition = tally_renamed(definition, $2, $3)
where definition_id in (select id from custom_metric_definitions where merchant_id = $1)
  and strpos(definition::text, to_jsonb($2::text)::text) > 0
