-- Returns a page of the audit trail of a custom metric, newest first; for a merchant, without steps by or about others.
-- $1 definition   $2 id of the last step before the page   $3 limit   $4 merchant, null for all
select id, at, version, action, caller_id, outcome, details
from custom_metric_audit
where definition_id = $1
  and ($2::bigint is null or id < $2)
  and ($4::text is null
    or (coalesce(caller_merchant_id, $4) = $4 and coalesce(details ->> 'merchantId', $4) = $4))
order by id desc
limit $3
