-- Keeps an entry that Postgres refused; again: one more attempt.
-- $1 json journal line   $2 code   $3 message
insert into usage_dead_letters as old (merchant_id, date, entry_id, line, code, message)
select $1::jsonb ->> 'merchant_id', ($1::jsonb ->> 'date')::date, $1::jsonb ->> 'id', $1::jsonb, $2, $3
on conflict (merchant_id, date, entry_id) do update set
  attempts = old.attempts + 1, code = excluded.code, message = excluded.message, resolved_at = null
