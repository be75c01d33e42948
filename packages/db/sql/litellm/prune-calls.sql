-- Deletes calls of days whose journal is closed: they can no longer be counted.
delete from litellm_calls
where date <= (select max(date) from usage_closed_days)
  and date in (select date from usage_closed_days)
