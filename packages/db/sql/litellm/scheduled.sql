-- Returns the start of the first scheduled pull and the position of the last; null before the first.
select min(range_start) as began, max(position) as came
from litellm_pulls
where kind = 'schedule'
