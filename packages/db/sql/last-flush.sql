-- Returns the newest flush that counted events.
select started_at
from usage_flushes
where inserted > 0
order by started_at desc
limit 1
