-- Stores an event that Postgres rejected, or adds an attempt if it is stored. The first line of an identity stays.
-- $1 json line with its origin   $2 code   $3 message
-- Returns one row: whether the stored line is this one.
insert into usage_dead_letters as old (merchant_id, date, entry_id, line, code, message)
select $1::jsonb ->> 'merchant_id', ($1::jsonb ->> 'date')::date, $1::jsonb ->> 'id', $1::jsonb, $2, $3
on conflict (merchant_id, date, entry_id) do update set
  line = case when old.resolved_at is null then old.line else excluded.line end,
  attempts = old.attempts + 1, code = excluded.code, message = excluded.message, resolved_at = null
returning (line ->> 'origin') is not distinct from ($1::jsonb ->> 'origin') as own
