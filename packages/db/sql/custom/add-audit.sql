-- Adds a step to the audit trail of custom metrics.
-- $1 definition   $2 version   $3 action   $4 caller   $5 its merchant   $6 outcome   $7 details
insert into custom_metric_audit (definition_id, version, action, caller_id, caller_merchant_id, outcome, details)
values ($1, $2, $3, $4, $5, $6, $7)
