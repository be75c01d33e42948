-- Returns a page of firings, newest first.
-- $1 rule, or null   $2 id of the last firing before the page, or null   $3 limit
select id, rule, period_start, threshold, event, data, fired_at, resolved_at
from alert_firings
where ($1::text is null or rule = $1) and ($2::bigint is null or id < $2)
order by id desc
limit $3
