-- Takes flushes not yet derived, oldest first; skips those that another process has taken.
-- $1 events at most; always at least one flush   $2 flushes at most
with free as materialized (
  select id, inserted, first_date, last_date
  from usage_flushes
  where derived_at is null
  order by id
  limit $2
  for update skip locked
)
select id, inserted, first_date, last_date
from (select *, sum(inserted) over (order by id) - inserted as before from free) as slice
where before = 0 or before + inserted <= $1
order by id
