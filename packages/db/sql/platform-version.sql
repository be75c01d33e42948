-- Returns the version of a range over all merchants: changes of its whole months, of the days at its edges, and of
-- everything.
-- $1, $2 first days of the first and the last whole month   $3, $4 and $5, $6 the days before and after them; from >
-- to: none
select coalesce(sum(changes), 0)::text as version
from usage_platform_changes
where grain = 'all'
  or (grain = 'month' and period between $1::date and $2::date)
  or (grain = 'day' and period between $3::date and $4::date)
  or (grain = 'day' and period between $5::date and $6::date)
