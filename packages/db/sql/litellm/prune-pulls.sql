-- Deletes pulls from before a day, except running ones and the scheduled one that came furthest.
-- $1 day
delete from litellm_pulls
where started_at < $1::date
  and status <> 'RUNNING'
  and id <> all (select id from litellm_pulls where kind = 'schedule' order by position desc limit 1)
