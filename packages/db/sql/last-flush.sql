-- The newest flush that counted something.
select started_at
from usage_flushes
where inserted > 0
order by started_at desc
limit 1
