-- Stores facts about a day of LiteLLM; absent ones stay unchanged.
-- $1 day   $2 sums of its calls   $3 LiteLLM's sums   $4 whether they differ   $5 error   $6 to $9 whether each is
-- given
insert into litellm_days as known (date, seen, reported, differs, error, checked_at)
values ($1, $2::jsonb, $3::jsonb, $4, $5, clock_timestamp())
on conflict (date) do update set
  seen = case when $6 then excluded.seen else known.seen end,
  reported = case when $7 then excluded.reported else known.reported end,
  differs = case when $8 then excluded.differs else known.differs end,
  error = case when $9 then excluded.error else known.error end,
  checked_at = excluded.checked_at
