-- Renames a user in the next events of a merchant's day, in order of their ids.
-- $1 merchant   $2 user   $3 pseudonym   $4 day   $5 last event before the page   $6 events at most
-- Returns one row: the number of events read, the number renamed, and the last one.
with page as materialized (
  select id, user_id
  from usage_events
  where date = $4::date and merchant_id = $1 and id > $5
  order by id
  limit $6
),
renamed as (
  update usage_events
  set user_id = $3
  where date = $4::date and merchant_id = $1 and user_id = $2
    and id = any(array(select id from page where user_id = $2))
  returning 1
)
select
  (select count(*) from page)::int as seen,
  (select count(*) from renamed)::int as renamed,
  coalesce((select max(id) from page), $5) as last_id
