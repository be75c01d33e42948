-- Renames a user in the audit trail of custom metrics.
-- $1 merchant   $2 user   $3 pseudonym
update custom_metric_audit
set details = tally_renamed(details, $2, $3)
where caller_merchant_id = $1
  and strpos(details::text, to_jsonb($2::text)::text) > 0
