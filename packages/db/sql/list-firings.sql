-- Returns firings, newest first.
-- $1 rule, or null   $2 limit
select rule, period_start, threshold, event, data, fired_at, resolved_at
from alert_firings
where $1::text is null or rule = $1
order by id desc
limit $2
