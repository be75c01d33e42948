-- Returns the positions of firings that have not been recorded, from 0.
-- $1 rules   $2 starts of their periods   $3 thresholds, each an array
select position::int - 1 as position
from unnest($1::text[], $2::timestamptz[], $3::text[]) with ordinality as wanted (rule, period_start, threshold, position)
where not exists (
  select from alert_firings as fired
  where fired.rule = wanted.rule and fired.period_start = wanted.period_start and fired.threshold = wanted.threshold
)
order by 1
