-- Returns when a pull last completed; null before the first.
select max(finished_at) as at
from litellm_pulls
where status = 'COMPLETED'
