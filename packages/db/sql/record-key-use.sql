-- Records when keys were last used; an earlier time than the recorded one changes nothing.
-- Skips rows that another process is writing: it records the same minute.
-- $1 ids of keys   $2 the time of each
with used as (
  select * from unnest($1::uuid[], $2::timestamptz[]) as each (id, at)
),
free as (
  select id from api_keys where id in (select id from used) for update skip locked
)
update api_keys
set last_used_at = greatest(api_keys.last_used_at, used.at)
from used join free using (id)
where api_keys.id = used.id
