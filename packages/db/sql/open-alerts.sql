-- Returns those of these rules that fired and did not end.
-- $1 rules
select distinct rule
from alert_firings
where rule = any($1::text[]) and resolved_at is null
