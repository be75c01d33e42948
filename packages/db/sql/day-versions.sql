-- Returns the versions of some days, in their order; 0 for a day that never changed.
-- $1 days
select coalesce(sum(version.changes), 0) as changes
from unnest($1::date[]) with ordinality as day (date, position)
left join usage_changes as version on version.grain = 'day' and version.period = day.date
group by day.position
order by day.position
